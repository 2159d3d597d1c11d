"""What reading a keyed table costs while operations wait to be folded, beside the same table compacted.

The views are the API's own, read by DuckDB in this process: a ratio of two times on one machine, without the network.
"""

import statistics
import tempfile
import time
from pathlib import Path

import duckdb

from query.engine import view_sql
from query.request import TableView, ViewColumn
from storage.columns import OP_COLUMN, OP_FIELD_ID, TOKEN_COLUMN, TOKEN_FIELD_ID
from storage.parquet import copy_sql
from storage.reading import Part, ScanColumn
from tests.benchmarks.load import Target
from tests.benchmarks.report import Figure

_ROWS = 5_000_000
_FILES = 8
_ROUNDS = 7
_TYPES = {
    "id": "BIGINT",
    "kind": "VARCHAR",
    "number": "INTEGER",
    "amount": "DECIMAL(18,2)",
    "ratio": "DOUBLE",
    "moment": "TIMESTAMP",
}
_COLUMNS = tuple(
    ViewColumn(name=name, duckdb_type=kind, field_id=number) for number, (name, kind) in enumerate(_TYPES.items(), 1)
)
_STORED = [ScanColumn(field_id=c.field_id, name=c.name, duckdb_type=c.duckdb_type) for c in _COLUMNS] + [
    ScanColumn(field_id=OP_FIELD_ID, name=OP_COLUMN, duckdb_type="TINYINT"),
    ScanColumn(field_id=TOKEN_FIELD_ID, name=TOKEN_COLUMN, duckdb_type="BIGINT"),
]
# A row is made of its number `i` and of the version `v` of it. Keys are spread over their type, as UUIDs are.
_ROW = """
  (hash(i) >> 1)::BIGINT AS id, 'kind ' || (hash(i, v, 1) % 100) AS kind, (hash(i, v, 2) % 1000000)::INTEGER AS number,
  ((hash(i, v, 3) % 100000000)::BIGINT / 100)::DECIMAL(18,2) AS amount, (hash(i, v, 4) % 1000003)::DOUBLE / 7 AS ratio,
  TIMESTAMP '2024-01-01' + to_seconds((hash(i, v, 5) % 31536000)::BIGINT) AS moment
"""
_QUERIES = {
    "grouped": ("SELECT kind, count(*), sum(number), sum(amount) FROM {view} GROUP BY kind", 2.5),
    "a point by its key": ("SELECT * FROM {view} WHERE id = (hash(17) >> 1)::BIGINT", 1.6),
    "a range": ("SELECT count(*), sum(ratio), max(moment) FROM {view} WHERE number BETWEEN 500000 AND 504999", 1.4),
}


def unfolded_reads(target: Target) -> list[Figure]:
    """A table of 5M rows with 1 % and with 5 % of operations not yet folded, relative to the compacted table."""
    with (
        tempfile.TemporaryDirectory(prefix="duckmesh-bench-") as directory,
        duckdb.connect(config={"threads": 2}) as database,
    ):
        database.execute("SET enable_progress_bar = false")
        root = Path(directory)
        rows = max(1_000, int(_ROWS * target.share))
        base = _base(database, root, rows)
        return [figure for percent in (1, 5) for figure in _measured(database, root, base, rows, percent)]


def _base(database: duckdb.DuckDBPyConnection, root: Path, rows: int) -> tuple[str, ...]:
    database.execute(f"CREATE TABLE made AS SELECT {_ROW} FROM (SELECT i, 0 AS v FROM range({rows}) r(i))")
    stored = f"SELECT *, 0::TINYINT AS {OP_COLUMN}, row_number() OVER (ORDER BY id) AS {TOKEN_COLUMN} FROM made"
    paths = _sorted_files(database, stored, root / "base")
    database.execute("DROP TABLE made")
    return paths


def _sorted_files(database: duckdb.DuckDBPyConnection, select: str, directory: Path) -> tuple[str, ...]:
    """Files as folds leave them: in the order of the key."""
    directory.mkdir()
    paths = [directory / f"{number}.parquet" for number in range(_FILES)]
    width = 2**63 // _FILES
    for number, path in enumerate(paths):
        rows = f"SELECT * FROM ({select}) WHERE id // {width} = {number} ORDER BY id"
        database.execute(copy_sql(rows, path, _STORED))
    return tuple(map(str, paths))


def _measured(
    database: duckdb.DuckDBPyConnection, root: Path, base: tuple[str, ...], rows: int, percent: int
) -> list[Figure]:
    fresh = _fresh(database, root / f"fresh-{percent}.parquet", rows, percent)
    unfolded = TableView(name="unfolded", columns=_COLUMNS, key=("id",), folded=_part(base), fresh=_part((fresh,)))
    _show(database, unfolded, root)
    live = f"SELECT *, 0::TINYINT AS {OP_COLUMN}, 1::BIGINT AS {TOKEN_COLUMN} FROM unfolded"
    compacted = _sorted_files(database, live, root / f"compacted-{percent}")
    _show(database, TableView(name="compacted", columns=_COLUMNS, key=("id",), folded=_part(compacted)), root)
    return [
        Figure(
            f"keyed, {percent} % unfolded: {name}, against compacted",
            ratio,
            "x",
            bar=bar if percent == 1 else None,
            lower_is_better=True,
        )
        for name, (sql, bar) in _QUERIES.items()
        for ratio in [_ratio(database, sql)]
    ]


def _fresh(database: duckdb.DuckDBPyConnection, path: Path, rows: int, percent: int) -> str:
    """Seven updates, two new rows and a delete in ten, of keys from everywhere, as gathering leaves them."""
    number = f"CASE WHEN j % 10 IN (3, 7) THEN {rows} + j ELSE (hash(j, 77) % {rows})::BIGINT END"
    op = f"(CASE WHEN j % 10 = 9 THEN 1 ELSE 0 END)::TINYINT AS {OP_COLUMN}"
    made = f"SELECT {number} AS i, 1 AS v, j FROM range({rows * percent // 100}) r(j)"
    gathered = f"SELECT {_ROW}, {op}, {rows} + 1 + j AS {TOKEN_COLUMN} FROM ({made}) ORDER BY id"
    database.execute(copy_sql(gathered, path, _STORED))
    return str(path)


def _part(files: tuple[str, ...]) -> tuple[Part, ...]:
    return (Part(files=files, uniform=True),)


def _show(database: duckdb.DuckDBPyConnection, view: TableView, root: Path) -> None:
    database.execute(f"CREATE OR REPLACE VIEW {view.name} AS {view_sql(view, below=str(root))}")


def _ratio(database: duckdb.DuckDBPyConnection, sql: str) -> float:
    times: dict[str, list[float]] = {"unfolded": [], "compacted": []}
    for _ in range(_ROUNDS):
        for view, taken in times.items():
            started = time.perf_counter()
            database.execute(sql.format(view=view)).fetchall()
            taken.append(time.perf_counter() - started)
    return statistics.median(times["unfolded"]) / statistics.median(times["compacted"])
