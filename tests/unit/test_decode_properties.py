"""Whatever the table and the values: what is written comes back, and both ways of decoding agree."""

import json
import struct
from base64 import b64encode
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from uuid import UUID

from hypothesis import example, given, settings
from hypothesis import strategies as st

from catalog.schema import LogicalType, TableSchema, parse_type
from duckmesh.kernel.errors import Invalid
from ingest.decode.exact import decode_exact
from ingest.decode.fast import decode_fast
from ingest.decode.plan import plan_for
from ingest.decode.refusals import Doubt
from ingest.decode.rows import Rows
from tests.unit.decode_cases import batch_of, decode, make_schema

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
SIMPLE = ["bool", "int32", "int64", "float32", "float64", "string", "binary", "date", "timestamp", "json", "uuid"]


@st.composite
def types(draw: st.DrawFn, depth: int = 2) -> str:
    kind = draw(st.sampled_from([*SIMPLE, "decimal", *(["list"] if depth else [])]))
    if kind == "decimal":
        precision = draw(st.integers(1, 38))
        return f"decimal({precision},{draw(st.integers(0, precision))})"
    return f"list<{draw(types(depth=depth - 1))}>" if kind == "list" else kind


def timestamps() -> st.SearchStrategy[tuple[str, datetime]]:
    zones = st.integers(-23 * 60, 23 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
    inner = st.datetimes(datetime(2, 1, 1), datetime(9998, 12, 31), timezones=zones)  # noqa: DTZ001 (bounds are naive)
    return inner.map(lambda t: (t.isoformat(), t.astimezone(UTC).replace(tzinfo=None)))


def scaled(precision: int, scale: int) -> st.SearchStrategy[tuple[str, Decimal]]:
    unscaled = st.integers(-(10**precision) + 1, 10**precision - 1)
    return unscaled.map(lambda n: Decimal((int(n < 0), tuple(map(int, str(abs(n)))), -scale))).map(
        lambda value: (format(value, "f"), value)
    )


def values(type_: LogicalType) -> st.SearchStrategy[tuple[object, object]]:
    """Pairs of what is sent and what Arrow must give back; a decimal is sent as a string."""
    if type_.item is not None:
        item = values(type_.item) | st.just((None, None))
        return st.lists(item, max_size=4).map(lambda pairs: ([a for a, _ in pairs], [b for _, b in pairs]))
    if type_.kind == "decimal":
        return scaled(type_.precision, type_.scale)
    same: dict[str, st.SearchStrategy[object]] = {
        "bool": st.booleans(),
        "int32": st.integers(-(2**31), 2**31 - 1),
        "int64": st.integers(-(2**63), 2**63 - 1),
        "float32": st.floats(width=32, allow_nan=False, allow_infinity=False),
        "float64": st.floats(allow_nan=False, allow_infinity=False),
        "string": TEXT,
    }
    if type_.kind in same:
        return same[type_.kind].map(lambda value: (value, value))
    other: dict[str, st.SearchStrategy[tuple[object, object]]] = {
        "binary": st.binary(max_size=12).map(lambda value: (b64encode(value).decode(), value)),
        "date": st.dates().map(lambda value: (value.isoformat(), value)),
        "timestamp": timestamps(),
        "uuid": st.uuids().map(lambda value: (str(value).upper(), str(value))),
        "json": JSON_VALUES.filter(lambda v: v is not None).map(lambda v: (v, v)),
    }
    return other[type_.kind]


@st.composite
def tables(draw: st.DrawFn) -> tuple[TableSchema, list[dict[str, object]], list[dict[str, object]]]:
    """A schema, payloads for it, and the rows they must become."""
    kinds = draw(st.lists(types(), min_size=1, max_size=5))
    schema = make_schema(*(f"{'cC'[i % 2]}{i} {kind}" for i, kind in enumerate(kinds)))
    payloads: list[dict[str, object]] = []
    rows: list[dict[str, object]] = []
    for _ in range(draw(st.integers(1, 6))):
        row: dict[str, object] = {column.name: None for column in schema.columns}
        payload: dict[str, object] = {}
        for column in draw(st.permutations(schema.columns)):
            match draw(st.integers(0, 9)):
                case 0:
                    continue
                case 1:
                    payload[column.name] = None
                case _:
                    payload[column.name], row[column.name] = draw(values(parse_type(column.type)))
        payloads.append(payload)
        rows.append(row)
    return schema, payloads, rows


def body_of(payloads: list[dict[str, object]], *, indent: int | None = None, ascii_only: bool = True) -> bytes:
    records = [{"payload": payload, "idempotency_key": str(i)} for i, payload in enumerate(payloads)]
    return json.dumps({"records": records}, indent=indent, ensure_ascii=ascii_only).encode()


def same_value(kind: str, got: object, wanted: object) -> bool:
    if got is None or wanted is None:
        return got is wanted
    if kind.startswith("list<"):
        assert isinstance(got, list)
        assert isinstance(wanted, list)
        return len(got) == len(wanted) and all(same_value(kind[5:-1], g, w) for g, w in zip(got, wanted, strict=True))
    if kind == "json":
        assert isinstance(got, str)
        return bool(json.loads(got) == wanted)
    if kind in ("float32", "float64"):
        assert isinstance(got, float)
        assert isinstance(wanted, float)
        return struct.pack("<d", got) == struct.pack("<d", wanted)
    return type(got) is type(wanted) and got == wanted


@given(tables(), st.sampled_from([None, 1]), st.booleans())
@settings(max_examples=150, deadline=None)
def test_what_is_written_comes_back(
    table: tuple[TableSchema, list[dict[str, object]], list[dict[str, object]]], indent: int | None, ascii_only: bool
) -> None:
    schema, payloads, rows = table
    batch = batch_of(decode(body_of(payloads, indent=indent, ascii_only=ascii_only), schema))
    batch.validate(full=True)
    for column in schema.columns:
        got = batch.column(column.name).to_pylist()
        assert all(same_value(column.type, g, row[column.name]) for g, row in zip(got, rows, strict=True)), column


def same_rows(fast: Rows, exact: Rows) -> None:
    assert [array.to_pylist() for array in fast.arrays] == [array.to_pylist() for array in exact.arrays]
    assert [array.type for array in fast.arrays] == [array.type for array in exact.arrays]
    assert list(fast.payloads) == list(exact.payloads)
    assert list(fast.ops) == list(exact.ops)
    assert list(fast.keys) == list(exact.keys)
    assert list(fast.event_times) == list(exact.event_times)
    assert fast.event_span == exact.event_span


def ways(body: bytes, schema: TableSchema, primary_key: tuple[str, ...] = ()) -> tuple[Rows | None, Rows | None]:
    """What each way makes of the body; None where it refuses it or cannot be sure."""
    plan = plan_for(schema, primary_key)
    try:
        fast = decode_fast(body, plan, max_records=1_000, hash_all=True)
    except Doubt:
        fast = None
    try:
        exact = decode_exact(body, plan, max_records=1_000)
    except Invalid:
        exact = None
    return fast, exact


@given(tables(), st.sampled_from([None, 1]))
@settings(max_examples=150, deadline=None)
def test_the_fast_way_answers_as_the_exact_one(
    table: tuple[TableSchema, list[dict[str, object]], list[dict[str, object]]], indent: int | None
) -> None:
    schema, payloads, _ = table
    fast, exact = ways(body_of(payloads, indent=indent), schema)
    assert exact is not None
    if fast is not None:
        same_rows(fast, exact)


NUMBERS = st.from_regex(r"-?(0|[1-9][0-9]{0,20})(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?", fullmatch=True)
TIMES = st.from_regex(
    r"[0-9]{4}-[0-1][0-9]-[0-3][0-9]([Tt ][0-2][0-9]:[0-6][0-9]:[0-6][0-9](\.[0-9]{1,7})?"
    r"([Zz]|[+-][0-2][0-9]:[0-6][0-9])?)?",
    fullmatch=True,
)
UUIDS = st.from_regex(r"[0-9a-fA-F]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}", fullmatch=True)
BASE64 = st.from_regex(r"[A-Za-z0-9+/=]{0,8}", fullmatch=True)
ODD = ["null", "true", "NaN", "1e400", r'"\ud800"', '{"a":1,"a" :1}', "[1,2.50]", '[{"a":null}]', r'"\":"']
LITERALS = (
    NUMBERS
    | (NUMBERS | TIMES | UUIDS | BASE64).map(lambda text: f'"{text}"')
    | st.sampled_from(ODD)
    | JSON_VALUES.map(json.dumps)
)


@given(types(), st.lists(LITERALS, min_size=1, max_size=4), st.sampled_from(["", " ", "\n"]))
@settings(max_examples=600, deadline=None)
@example("float64", ["0.10", "100", "1E2"], "")
@example("list<float32>", ["[1e-60]", "[16777217]"], " ")
def test_the_fast_way_never_takes_what_the_exact_way_refuses(kind: str, literals: list[str], space: str) -> None:
    records = ",".join(f'{{"payload":{{"a"{space}:{text}}}}}' for text in literals)
    fast, exact = ways(f'{{"records":[{records}]}}'.encode(), make_schema(f"a {kind}"))
    if fast is not None:
        assert exact is not None
        same_rows(fast, exact)


@given(
    st.lists(
        st.fixed_dictionaries(
            {"payload": st.fixed_dictionaries({}, optional={"id": st.just(1), "n": st.none() | st.just("x")})},
            optional={
                "op": st.sampled_from(["insert", "upsert", "delete", "x"]),
                "idempotency_key": st.none() | TEXT,
                "event_time": st.none() | st.sampled_from(["2013-01-01T10:00:00Z", "2013-01-01T10:00:00", "x"]),
            },
        ),
        min_size=1,
        max_size=3,
    ),
    st.booleans(),
)
@settings(max_examples=300, deadline=None)
def test_both_ways_agree_on_records(records: list[dict[str, object]], keyed: bool) -> None:
    body = json.dumps({"records": records}).encode()
    fast, exact = ways(body, make_schema("id int64", "n string!"), ("id",) if keyed else ())
    if fast is not None:
        assert exact is not None
        same_rows(fast, exact)


def test_the_fast_way_is_the_usual_one() -> None:
    schema = make_schema("s string!", "i int64", "f float64", "t timestamp", "j json", "d decimal(9,2)", "u uuid")
    payload = {"s": 'a":b', "i": 2**60, "f": 0.1, "t": "2013-01-01T00:00:00Z", "j": {"a": [1.5]}, "d": 1.25}
    for extra in ({"u": str(UUID(int=1))}, {"u": None}, {}):
        fast, exact = ways(body_of([{**payload, **extra}] * 50), schema)
        assert fast is not None
        assert exact is not None
        same_rows(fast, exact)
