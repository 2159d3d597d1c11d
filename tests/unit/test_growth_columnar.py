"""Arrow streams and Parquet files for a growing table: their columns bring their types, and meet what is there."""

from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal

import pyarrow as pa
import pytest

from duckmesh.kernel.errors import Invalid
from ingest.decode.batch import DecodedBatch
from ingest.decode.columnar.body import ARROW_TYPE, PARQUET_TYPE
from ingest.decode.options import BodyOptions
from ingest.errors import InvalidRecord
from tests.unit.body_cases import PLAIN
from tests.unit.columnar_cases import arrow_of, parquet_of
from tests.unit.decode_cases import LIMITS
from tests.unit.growth_cases import GrowingTable

WIDE = 2**53 + 1
MOMENT = datetime(2013, 1, 1, 10, tzinfo=UTC)


def bring(table: GrowingTable, options: BodyOptions = PLAIN, **columns: pa.Array) -> DecodedBatch:
    """The columns as an Arrow stream."""
    return table.write_body(ARROW_TYPE, arrow_of(pa.table(columns)), options=options)


def refused(table: GrowingTable, body: bytes, *, max_columns: int = 1_000) -> list[tuple[object, object]]:
    with pytest.raises(InvalidRecord) as caught:
        table.write_body(ARROW_TYPE, body, limits=replace(LIMITS, max_columns=max_columns))
    errors = caught.value.context["errors"]
    assert isinstance(errors, list)
    return [(e["index"], e["column"]) for e in errors if isinstance(e, dict)]


def test_columns_bring_their_types() -> None:
    content = pa.table(
        {
            "at": pa.array([MOMENT], pa.timestamp("us", "UTC")),
            "day": pa.array([date(2013, 1, 1)]),
            "small": pa.array([1], pa.int16()),
            "big": pa.array([WIDE]),
            "f": pa.array([0.5], pa.float32()),
            "price": pa.array([Decimal("1.50")]),
            "data": pa.array([b"\0"]),
            "tags": pa.array([["a", None]]),
            "inner": pa.array([{"x": 1}]),
            "word": pa.array(["a"]).dictionary_encode(),
            "nothing": pa.nulls(1),
        }
    )
    expected = {
        "at": "timestamp",
        "day": "date",
        "small": "int32",
        "big": "int64:wide",
        "f": "float32",
        "price": "decimal(3,2)",
        "data": "binary",
        "tags": "list<string>",
        "inner": "json",
        "word": "string",
    }
    for media_type, body in ((ARROW_TYPE, arrow_of(content)), (PARQUET_TYPE, parquet_of(content.drop(["nothing"])))):
        table = GrowingTable()
        table.write_body(media_type, body)
        assert table.types == expected
        assert (table.rows("at"), table.rows("price")) == ([MOMENT.replace(tzinfo=None)], [Decimal("1.50")])
        assert table.write_body(media_type, body).growth is None


@pytest.mark.parametrize(
    ("first", "second", "type_", "values"),
    [
        (pa.array([1], pa.int32()), pa.array([2**40]), "int64", [1, 2**40]),
        (pa.array([0.5], pa.float32()), pa.array([0.1]), "float64", [0.5, 0.1]),
        (pa.array([1]), pa.array([0.5]), "float64", [1.0, 0.5]),
        (pa.array([WIDE]), pa.array([0.5]), "string:number", [str(WIDE), "0.5"]),
        (pa.array([WIDE]), pa.array([1], pa.int32()), "int64:wide", [WIDE, 1]),
        (pa.array(["a"]), pa.array([1]), "json", ['"a"', "1"]),
        (pa.array([MOMENT]), pa.array(["a"]), "json", ['"2013-01-01T10:00:00.000000Z"', '"a"']),
        (pa.array([[1]]), pa.array([["a"]]), "json", ["[1]", '["a"]']),
        (pa.array([Decimal("1.50")]), pa.array([1]), "json", ["1.5", "1"]),
        (pa.array([True]), pa.array([None], pa.float64()), "bool", [True, None]),
    ],
)
def test_types_that_meet_join(first: pa.Array, second: pa.Array, type_: str, values: list[object]) -> None:
    one, other = GrowingTable(), GrowingTable()
    bring(one, v=first)
    bring(one, V=second)
    assert (one.types, one.rows("v")) == ({"v": type_}, values)
    if second.null_count:
        return
    bring(other, v=second)
    bring(other, v=first)
    assert (other.types, other.rows("v")) == ({"v": type_}, values[::-1])


def test_typed_bodies_and_json_meet_in_one_table() -> None:
    table = GrowingTable()
    table.write('{"n":1,"s":"a"}')
    bring(table, n=pa.array([0.5, None]), at=pa.array([MOMENT, None], pa.timestamp("us")))
    table.write('{"n":2,"at":"2013-01-01T11:00:00Z","s":1}')
    assert table.types == {"n": "float64", "s": "json", "at": "timestamp"}
    assert table.rows("n") == [1.0, 0.5, None, 2.0]
    assert table.rows("s") == ['"a"', None, None, "1"]


def test_a_retry_is_recognised_after_growth() -> None:
    table = GrowingTable()
    by_id = BodyOptions(key_column="id")
    columns = {"id": pa.array([1, 2]), "f": pa.array([1.0, 0.5]), "at": pa.array([MOMENT, None])}
    first = bring(table, by_id, **columns)
    assert list(first.key_ordinals) == [0, 1]
    table.write('{"id":"x","f":"y","at":5}')
    again = bring(table, by_id, **columns)
    assert table.types == {"id": "json", "f": "json", "at": "json"}
    assert (again.key_hashes, again.payload_hashes) == (first.key_hashes, first.payload_hashes)


def test_options_may_name_columns_that_come_with_the_body_and_no_others() -> None:
    table = GrowingTable()
    timed = bring(table, BodyOptions(event_time_column="at"), at=pa.array([MOMENT], pa.timestamp("us", "UTC")))
    assert timed.min_event_time == MOMENT
    with pytest.raises(Invalid, match="key_column"):
        bring(table, BodyOptions(key_column="id"), a=pa.array([1]))


def test_nulls_alone_bring_no_column_and_still_are_rows() -> None:
    table = GrowingTable()
    assert refused(table, arrow_of(pa.table({"a": pa.nulls(2)}))) == [(0, None)]
    table.write('{"a":1}')
    assert bring(table, a=pa.nulls(2), b=pa.nulls(2)).record_count == 2
    assert (table.types, table.rows("a")) == ({"a": "int64"}, [1, None, None])


def test_columns_that_cannot_be_are_refused_by_name() -> None:
    one = pa.array([1])
    assert refused(GrowingTable(), arrow_of(pa.table({"a": one, "b c": one}))) == [(0, "b c")]
    assert refused(GrowingTable(), arrow_of(pa.table({"a": one, "b": one})), max_columns=1) == [(0, "b")]
    assert refused(GrowingTable(), arrow_of(pa.table({"a": one, "A": one}))) == [(0, "A")]
    assert refused(GrowingTable(), arrow_of(pa.table({"a": pa.array([1], pa.duration("s"))}))) == [(0, "a")]
    assert refused(GrowingTable(), arrow_of(pa.table({"a": pa.array([0.5, float("nan")])}))) == [(1, "a")]
