"""TPC-H as DuckDB's extension makes it: the data, the 22 questions and the answers that come with them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal, InvalidOperation
from pathlib import Path

import duckdb
import duckdb_extension_tpch
import pyarrow as pa

SCALE = 0.1
QUESTIONS = range(1, 23)
_KINDS = {"BIGINT": "int64", "INTEGER": "int32", "VARCHAR": "string", "DATE": "date", "DECIMAL(15,2)": "decimal(15,2)"}
_DIGITS = 1e-12  # what doubles may differ by when they are added in another order


@dataclass(frozen=True, kw_only=True)
class Question:
    """A statement and what it must answer: the names of the columns, and each row's values as text."""

    sql: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def is_answered_by(self, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> bool:
        """The same values in the same order, whatever types they have."""
        return (
            tuple(columns) == self.columns
            and len(rows) == len(self.rows)
            and all(len(row) == len(wanted) for row, wanted in zip(rows, self.rows, strict=True))
            and all(
                _agree(a, b)
                for row, wanted in zip(rows, self.rows, strict=True)
                for a, b in zip(row, wanted, strict=True)
            )
        )


@dataclass(frozen=True, kw_only=True)
class Tpch:
    """Tables by name, the logical types of their columns, and the questions by number."""

    tables: Mapping[str, pa.Table]
    columns: Mapping[str, Mapping[str, str]]
    questions: Mapping[int, Question]


def make_tpch(scale: float = SCALE) -> Tpch:
    """The benchmark at this scale; the extension has answers for 0.01, 0.1 and 1."""
    (extension,) = Path(duckdb_extension_tpch.__file__).parent.glob("extensions/*/tpch.duckdb_extension")
    with duckdb.connect(config={"allow_unsigned_extensions": "true"}) as database:
        database.execute(f"LOAD '{extension}'")
        database.execute(f"CALL dbgen(sf = {scale})")
        names = [name for (name,) in database.execute("SELECT table_name FROM duckdb_tables()").fetchall()]
        described = {name: database.execute(f"DESCRIBE {name}").fetchall() for name in names}
        answers = database.execute(
            "SELECT query_nr, query, answer FROM tpch_queries() JOIN tpch_answers() USING (query_nr)"
            " WHERE scale_factor = $1 ORDER BY query_nr",
            [scale],
        ).fetchall()
        return Tpch(
            tables={name: database.execute(f"FROM {name}").to_arrow_table() for name in names},
            columns={name: {row[0]: _KINDS[row[1]] for row in rows} for name, rows in described.items()},
            questions={
                number: Question(sql=sql, columns=tuple(database.sql(sql).columns), rows=_rows(answer))
                for number, sql, answer in answers
            },
        )


def _rows(answer: str) -> tuple[tuple[str, ...], ...]:
    """Without its first line, in which some names are not those that DuckDB gives."""
    return tuple(tuple(line.split("|")) for line in answer.splitlines()[1:])


def _agree(found: object, wanted: str) -> bool:
    text = found.isoformat() if isinstance(found, date) else str(found)
    if text == wanted:
        return True
    try:
        return math.isclose(Decimal(text), Decimal(wanted), rel_tol=_DIGITS)
    except InvalidOperation:
        return False
