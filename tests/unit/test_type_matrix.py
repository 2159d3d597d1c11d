"""Every type against every other: a file of the old version and an envelope in flight, read in the new version."""

import datetime as dt
from collections.abc import Callable, Iterator
from decimal import Decimal
from itertools import product
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import ipc

from catalog.scanning import scan_columns, scan_parts
from catalog.schema import Column, TableSchema, arrow_schema
from ingest.decode.envelope import EnvelopeWriter, read_envelope
from ingest.decode.spool import Spool
from query.engine import Engine, EngineSettings
from query.request import RunRequest, TableView, ViewColumn
from storage.conversion import is_convertible
from storage.parquet import conform, write_parquet
from tests.lake import SPOOL
from tests.shown import expected, same

UUID = "00000000-0000-0000-0000-00000000000a"
INT32 = [-(2**31), 2**31 - 1, 0, -1]
INT64 = [-(2**63), 2**63 - 1, 2**53 - 1, 2**53, 2**53 + 1, -(2**53) - 1, 10**15, 10**18]
NEAR_A_TENTH = 0.10000000149011612  # the float32
FLOAT32 = [2.0**-149, 2.0**-126, (2 - 2.0**-23) * 2.0**127, -0.0, 0.0, 0.5, 2.0**24, NEAR_A_TENTH]
FLOAT64 = [5e-324, 1.7976931348623157e308, 0.1, -0.0, 2.0**53, -(2.0**63), 2.0**63, 1e15, 1e16, 1e22, 1e-5, 123456.789]

EDGES: dict[str, list[Any]] = {
    "bool": [True, False],
    "int32": INT32,
    "int64": INT64,
    "float32": FLOAT32,
    "float64": FLOAT64,
    "decimal(5,2)": [Decimal("999.99"), Decimal("-999.99"), Decimal("0.00"), Decimal("0.01"), Decimal("100.00")],
    "decimal(19,0)": [Decimal(2**63 - 1), Decimal(-(2**63)), Decimal(0)],
    "decimal(38,19)": [Decimal("9223372036854775807.9999999999999999999"), Decimal("1E-19"), Decimal(-1)],
    "decimal(38,0)": [Decimal(10**38 - 1), Decimal(-(10**38) + 1), Decimal(100)],
    "string": ["", "1", "é\U0001f600", 'a"\\\n', "a\0b", "x" * 3_000],
    "binary": [b"", b"\x00\xff", b"abc" * 500],
    "date": [dt.date(1, 1, 1), dt.date(9999, 12, 31), dt.date(1970, 1, 1)],
    "timestamp": [dt.datetime.fromisoformat(text) for text in ("0001-01-01T00:00:00", "9999-12-31T23:59:59.999999")],
    "json": ['{"a":[1,null]}', '"x"', "1.50", "null", "[]"],
    "uuid": [UUID, "ffffffff-ffff-ffff-ffff-ffffffffffff"],
    "list<int32>": [[], [None], INT32],
    "list<int64>": [[], [None], INT64],
    "list<float32>": [[], [None], FLOAT32],
    "list<float64>": [[], FLOAT64],
    "list<decimal(12,2)>": [[], [Decimal("9999999999.99"), None]],
    "list<string>": [[], ["", None, '"']],
    "list<json>": [[], ['{"a": 1}', None]],
    "list<uuid>": [[], [UUID, None]],
    "list<list<int32>>": [[], [[]], [None, [None, 1], INT32]],
    "list<list<decimal(10,0)>>": [[[Decimal(2**31)]], []],
}
TARGETS = [*EDGES, "string/number"]
PAIRS = [(old, new) for old, new in product(EDGES, TARGETS) if old != new]


def column(type_: str) -> Column:
    kind, _, holds = type_.partition("/")
    return Column(field_id=7, name="c", type=kind, holds=holds)


def convertible(old: str, new: str) -> bool:
    one, other = column(old), column(new)
    return is_convertible(from_type=one.type, from_holds=one.holds, to_type=other.type, to_holds=other.holds)


# The ways to it.


class Reader:
    """Real files, read by the product's engine."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.engine = Engine(tenant_dir=str(root), settings=EngineSettings())
        self.files = 0

    def write(self, rows: pa.Table) -> str:
        self.files += 1
        path = self.root / f"{self.files}.parquet"
        write_parquet(rows, path)
        return str(path)

    def read(self, files: list[tuple[str, int]], versions: list[TableSchema], sql: str) -> list[tuple[Any, ...]]:
        """The rows in the last of the versions, which are numbered from 1."""
        schema = versions[-1]
        others = {version.version: version for version in versions[:-1]}
        columns = tuple(
            ViewColumn(name=c.name, duckdb_type=c.duckdb_type, field_id=c.field_id)
            for c in scan_columns(schema, keyed=False)[:-1]
        )
        view = TableView(name="t", columns=columns, folded=scan_parts(files, schema=schema, others=others))
        pieces: list[bytes] = []
        self.engine.run(RunRequest(sql=sql, views=(view,)), emit=lambda piece, _more: pieces.append(piece))
        rows = ipc.open_stream(b"".join(pieces)).read_all().to_pylist()
        return [tuple(row.values()) for row in rows]


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    return Reader(tmp_path_factory.mktemp("matrix"))


def rows_of(schema: TableSchema, *columns: list[Any]) -> pa.Table:
    target = arrow_schema(schema, keyed=False)
    return pa.table([pa.array(c, field.type) for c, field in zip(columns, target, strict=True)], schema=target)


def through_the_bus(rows: pa.Table) -> pa.Table:
    spool = Spool(SPOOL)
    try:
        writer = EnvelopeWriter(spool)
        for batch in rows.to_batches(max_chunksize=2):
            writer.write(batch)
        with spool.open() as source:
            return pa.Table.from_batches(read_envelope(source))
    finally:
        spool.close()


CONVERTIBLE = [pair for pair in PAIRS if convertible(*pair)]


@pytest.mark.parametrize(("old", "new"), CONVERTIBLE, ids=[" to ".join(pair) for pair in CONVERTIBLE])
def test_every_value_is_seen_in_the_new_type(reader: Reader, old: str, new: str) -> None:
    values = [*EDGES[old], None]
    if new == "float64":
        values = [value for value in values if value is None or float(value) == value]  # what a growing table sees to
    if new.endswith("float64>") and old == "list<int64>":
        values = [[2**53, None, -(2**63)], None]
    versions = [TableSchema(version=1, columns=(column(old),)), TableSchema(version=2, columns=(column(new),))]
    before = rows_of(versions[0], values)
    stored = reader.write(before)
    landed = reader.write(conform(through_the_bus(before), arrow_schema(versions[1], keyed=False)))
    shown = "c::VARCHAR AS c" if "uuid" in new and "list" not in new else "c"
    of_file = reader.read([(stored, 1)], versions, f"SELECT {shown} FROM t")
    of_envelope = reader.read([(landed, 2)], versions, f"SELECT {shown} FROM t")
    both = reader.read([(stored, 1), (landed, 2)], versions, "SELECT count(*), count(c) FROM t")
    wanted = [same(expected(value, old, new)) for value in values]
    assert [same(row[0]) for row in of_file] == wanted
    assert [same(row[0]) for row in of_envelope] == wanted
    assert both == [(2 * len(values), 2 * len(values) - 2)]


def test_the_matrix_holds_what_can_and_what_cannot_be_shown() -> None:
    allowed = set(CONVERTIBLE)
    assert {old for old, new in allowed if new == "json"} == set(EDGES) - {"json"}
    numbers = {(old, new) for old, new in allowed if "json" not in new}
    assert numbers == {
        ("int32", "int64"),
        ("int32", "float64"),
        ("int64", "float64"),
        ("float32", "float64"),
        *product(["int32", "int64", "float32", "float64"], ["string/number"]),
        *product(["int32", "int64"], ["decimal(19,0)", "decimal(38,19)", "decimal(38,0)"]),
        ("decimal(5,2)", "decimal(38,19)"),
        ("decimal(19,0)", "decimal(38,19)"),
        ("decimal(19,0)", "decimal(38,0)"),
        ("list<int32>", "list<int64>"),
        ("list<int32>", "list<float64>"),
        ("list<int64>", "list<float64>"),
        ("list<float32>", "list<float64>"),
        ("list<int32>", "list<decimal(12,2)>"),
        ("list<list<int32>>", "list<list<decimal(10,0)>>"),
    }


# Filters reach what was meant, whatever the file holds.

FILTERS: list[tuple[str, str, list[str]]] = [
    ("int64", "string/number", ["'5'", "'2500'", "'5.0'", "''"]),
    ("float64", "string/number", ["'5'", "'0.1'", "'5.0'", "'1e3'", "'a'"]),
    ("float64", "json", ["'5'", "'0.1'", "'5.0'"]),
    ("int32", "decimal(12,2)", ["5", "2500.5", "0.1"]),
    ("int32", "float64", ["5", "2500.5", "0.1"]),
]


@pytest.mark.parametrize(("old", "new", "constants"), FILTERS)
def test_filters_mean_what_they_say(reader: Reader, old: str, new: str, constants: list[str]) -> None:
    step: Callable[[int], float] = (lambda i: i / 10) if old == "float64" else (lambda i: i)
    values = [None if i % 100 == 7 else step(i) for i in range(6_000)]
    versions = [TableSchema(version=1, columns=(column(old),)), TableSchema(version=2, columns=(column(new),))]
    before = rows_of(versions[0], values)
    stored = [(reader.write(before), 1)]
    landed = [(reader.write(conform(before, arrow_schema(versions[1], keyed=False))), 2)]
    c = "c::VARCHAR" if new == "json" else "c"
    for constant, operator in product(constants, ["=", "<>", "<", "<=", ">", ">=", "IS DISTINCT FROM"]):
        sql = f"SELECT count(*), count(c), min(c::VARCHAR) FROM t WHERE {c} {operator} {constant}"
        assert reader.read(stored, versions, sql) == reader.read(landed, versions, sql), sql


def many_versions(reader: Reader) -> Iterator[tuple[TableSchema, list[tuple[str, int]]]]:
    """Fifty versions, four files each: a column comes with each, and every tenth renames and widens."""
    columns: list[Column] = [Column(field_id=1, name="id", type="int32")]
    for version in range(1, 51):
        if version % 10 == 0:
            types = {"int32": "int64", "int64": "decimal(20,0)", "decimal(20,0)": "decimal(30,2)"}
            first = columns[0]
            renamed = Column(field_id=1, name=f"id{version}", type=types.get(first.type, first.type))
            columns = [renamed, *columns[1:]]
        columns = [*columns, Column(field_id=version + 1, name=f"c{version}", type="string")]
        schema = TableSchema(version=version, columns=tuple(columns))
        made = rows_of(schema, [version], *([f"v{version}"] for _ in columns[1:]))
        yield schema, [(reader.write(made), version) for _ in range(4)]


def test_two_hundred_files_of_fifty_versions_are_two_scans(reader: Reader) -> None:
    made = list(many_versions(reader))
    versions = [schema for schema, _ in made]
    files = [file for _, of_version in made for file in of_version]
    parts = scan_parts(files, schema=versions[-1], others={version.version: version for version in versions[:-1]})
    assert [(part.uniform, len(part.files)) for part in parts] == [(False, 196), (True, 4)]
    sql = "SELECT id50, c50, c1 FROM t ORDER BY 1"
    rows = reader.read(files, versions, sql)
    assert len(rows) == 200
    assert rows[0] == (Decimal("1.00"), None, "v1")
    assert rows[-1] == (Decimal("50.00"), "v50", "v50")
