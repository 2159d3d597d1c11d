"""Arrow, Parquet, CSV and NDJSON: what DuckDB answers is read back as it was."""

import csv
import io
import json
import math
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
from pyarrow import ipc, parquet

from query.engine import Engine, EngineSettings
from query.formats import ARROW, CSV, NDJSON, PARQUET, Format
from query.formats_parquet import GROUP_ROWS
from query.request import RunRequest
from query.sink import distinct
from tests.unit.test_results import MOMENTS, NUMBERS, OTHERS, answer_text

EVERYTHING = [*NUMBERS, *MOMENTS, *OTHERS]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return Engine(tenant_dir=str(tmp_path_factory.mktemp("tenant")), settings=EngineSettings(threads=1))


def written(engine: Engine, sql: str, form: Format) -> bytes:
    """The answer to the statement in this form."""
    return b"".join(pieces(engine, sql, form))


def pieces(engine: Engine, sql: str, form: Format) -> Iterator[bytes]:
    stream: list[bytes] = []
    kinds: list[tuple[str, ...]] = []
    engine.run(RunRequest(sql=sql), emit=lambda piece, _more: stream.append(piece), announce=kinds.append)
    with ipc.open_stream(b"".join(stream)) as reader:
        writer = form.writer(reader.schema, kinds[0])
        yield writer.begin()
        for batch in reader:
            yield writer.rows(batch)
        yield writer.end()


@pytest.mark.parametrize("expression", [expression for expression, _ in EVERYTHING])
def test_value_is_the_same_in_every_text_as_in_json(engine: Engine, expression: str) -> None:
    sql = f"SELECT 1 AS first, {expression}"
    sql = sql.replace(expression, f"{expression} AS v", 1) if " FROM " not in expression else sql
    ((_, plain),) = json.loads(answer_text(engine, sql), parse_float=str, parse_int=str)
    (line,) = written(engine, sql, NDJSON).splitlines()
    *_, of_line = json.loads(line, parse_float=str, parse_int=str).values()
    assert of_line == plain
    (_, (_, field)) = csv.reader(io.StringIO(written(engine, sql, CSV).decode(), newline=""), strict=True)
    if plain is None:
        assert field == ""
    elif isinstance(plain, str):
        assert field == plain
    elif isinstance(plain, bool):
        assert field == str(plain).lower()
    else:
        assert json.loads(field, parse_float=str, parse_int=str) == plain


@pytest.mark.parametrize("expression", [expression for expression, _ in EVERYTHING])
def test_parquet_is_read_by_duckdb_as_duckdb_answered(engine: Engine, expression: str, tmp_path: Path) -> None:
    path = tmp_path / "answer.parquet"
    path.write_bytes(written(engine, f"SELECT {expression}", PARQUET))
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        bare = connection.execute(f"SELECT {expression}")
        kind, expected = str(bare.description[0][1]), bare.fetchall()
        read = connection.execute(f"SELECT * FROM '{path}'").fetchall()
    if kind.startswith(("INTERVAL", "UNION", "STRUCT(INTEGER")) or "UHUGEINT" in kind:
        assert isinstance(read[0][0], str), "what Parquet has no type for is text"
    elif kind in ("HUGEINT", "BIGNUM", "TIME WITH TIME ZONE", "UUID") or kind.startswith("BIT"):
        assert str(read[0][0]) == str(expected[0][0])
    elif kind in ("DOUBLE", "FLOAT") and math.isnan(expected[0][0]):
        assert math.isnan(read[0][0])
    elif kind.startswith("INTEGER["):
        assert list(read[0][0]) == list(expected[0][0])
    else:
        assert read == expected


@pytest.mark.parametrize("expression", [expression for expression, _ in EVERYTHING])
def test_arrow_is_what_duckdb_exports(engine: Engine, expression: str) -> None:
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        result = connection.execute(f"SELECT {expression}")
        kind = str(result.description[0][1])
        bare = result.to_arrow_table()
    table = ipc.open_stream(written(engine, f"SELECT {expression}", ARROW)).read_all()
    if any(text in kind for text in ("UHUGEINT", "TIME WITH TIME ZONE", "BIT", "BIGNUM")):
        assert table.schema.types == [pa.string()]
    elif "99999999999999999" not in expression and not expression.startswith("17014"):
        assert table.schema.types == bare.schema.types
        assert table.column(0).equals(bare.column(0)) or "nan" in expression


def test_integer_of_39_digits_makes_its_column_text(engine: Engine) -> None:
    for expression, kind in (
        ("(2::HUGEINT ** 126)::HUGEINT", pa.decimal128(38, 0)),
        ("170141183460469231731687303715884105727::HUGEINT", pa.string()),
    ):
        stream = written(engine, f"SELECT {expression}", ARROW)
        assert ipc.open_stream(stream).schema.types == [kind]


def test_nested_enums_have_parquet_too(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "answer.parquet"
    sql = "SELECT ['y'::ENUM('x', 'y'), NULL], {'e': 'x'::ENUM('x', 'y'), 'n': 1} AS b, MAP{'k': 'x'::ENUM('x')} AS c"
    path.write_bytes(written(engine, sql, PARQUET))
    with duckdb.connect() as connection:
        assert connection.execute(f"FROM '{path}'").fetchall() == [(["y", None], {"e": "x", "n": 1}, {"k": "x"})]


def test_rows_of_many_batches_are_all_there_in_each_form(engine: Engine, tmp_path: Path) -> None:
    sql = "SELECT i, 's' || i AS s, CASE WHEN i % 3 = 0 THEN NULL ELSE i / 8 END AS f FROM range(300_000) r(i)"
    path = tmp_path / "answer.parquet"
    path.write_bytes(written(engine, sql, PARQUET))
    groups = parquet.ParquetFile(path).metadata
    assert groups.num_row_groups == 3
    assert groups.row_group(0).num_rows >= GROUP_ROWS
    (tmp_path / "answer.csv").write_bytes(written(engine, sql, CSV))
    (tmp_path / "answer.ndjson").write_bytes(written(engine, sql, NDJSON))
    table = ipc.open_stream(written(engine, sql, ARROW)).read_all()
    with duckdb.connect() as connection:
        connection.register("arrived", table)
        sums = "SELECT count(*), sum(i), count(f), round(sum(f), 3), max(s), typeof(any_value(i)) FROM"
        expected = connection.execute(f"{sums} ({sql})").fetchall()
        for source in ("arrived", f"'{path}'", f"'{tmp_path}/answer.csv'", f"read_json('{tmp_path}/answer.ndjson')"):
            assert connection.execute(f"{sums} {source}").fetchall() == expected, source


def test_parquet_with_not_a_number_does_not_hide_rows(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "answer.parquet"
    path.write_bytes(written(engine, "SELECT unnest(['nan'::DOUBLE, 200, 1]) AS x", PARQUET))
    with duckdb.connect() as connection:
        assert connection.execute(f"SELECT x FROM '{path}' WHERE x > 100 AND NOT isnan(x)").fetchall() == [(200.0,)]


def test_csv_tells_null_from_empty_and_quotes_what_it_must(engine: Engine) -> None:
    sql = """SELECT NULL AS a, '' AS b, 'x,y' AS "c,""d", 'q"q' AS d, chr(13) || chr(10) AS e, ' x ' AS f, [1] AS g"""
    assert written(engine, sql, CSV) == b'a,b,"c,""d",d,e,f,g\r\n,"","x,y","q""q","\r\n", x ,[1]\r\n'


def test_names_that_occur_twice_get_a_number_where_a_name_can_stand_once(engine: Engine, tmp_path: Path) -> None:
    sql = "SELECT 1 AS a, 2 AS a, 3 AS a_1, 4 AS a"
    assert written(engine, sql, NDJSON) == b'{"a":1,"a_2":2,"a_1":3,"a_3":4}\n'
    assert written(engine, sql, CSV).splitlines()[0] == b"a,a,a_1,a"
    assert ipc.open_stream(written(engine, sql, ARROW)).schema.names == ["a", "a", "a_1", "a"]
    path = tmp_path / "answer.parquet"
    path.write_bytes(written(engine, sql, PARQUET))
    assert parquet.read_schema(path).names == ["a", "a_2", "a_1", "a_3"]
    assert distinct(["x", "y", "x", "x_1", "x_1"]) == ["x", "y", "x_2", "x_1", "x_1_1"]


@pytest.mark.parametrize("form", [ARROW, PARQUET, CSV, NDJSON], ids=lambda form: form.media_type)
def test_answer_without_rows_still_names_its_columns(engine: Engine, form: Format, tmp_path: Path) -> None:
    sql = "SELECT 1::DECIMAL(5, 2) AS d, 'x'::ENUM('x') AS e, INTERVAL 1 DAY AS i WHERE false"
    data = written(engine, sql, form)
    if form is NDJSON:
        assert data == b""
    elif form is CSV:
        assert data == b"d,e,i\r\n"
    else:
        (tmp_path / "answer").write_bytes(data)
        found = ipc.open_stream(data).read_all() if form is ARROW else parquet.read_table(tmp_path / "answer")
        assert (found.num_rows, found.schema.names) == (0, ["d", "e", "i"])
        assert found.schema.field("d").type == pa.decimal128(5, 2)


def test_body_that_has_broken_off_is_refused_by_readers(engine: Engine) -> None:
    def broken(form: Format) -> bytes:
        with ipc.open_stream(written(engine, "SELECT 1 AS a, 'x' AS b", ARROW)) as reader:
            writer = form.writer(reader.schema, ["INTEGER", "VARCHAR"])
            batch = reader.read_next_batch()
            return writer.begin() + writer.rows(batch) + writer.broken("QUERY_TIMEOUT: It was stopped.")

    with pytest.raises((pa.ArrowException, OSError)):
        ipc.open_stream(broken(ARROW)).read_all()
    with pytest.raises(pa.ArrowException):
        parquet.read_table(io.BytesIO(broken(PARQUET)))
    with pytest.raises(json.JSONDecodeError):
        [json.loads(line) for line in broken(NDJSON).splitlines()]
    with pytest.raises(csv.Error):
        list(csv.reader(io.StringIO(broken(CSV).decode()), strict=True))
    assert broken(NDJSON).endswith(b"!QUERY_TIMEOUT: It was stopped.\n")
