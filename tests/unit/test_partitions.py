"""Rows by partition: every transform, null as a value of its own, and what becomes of too many partitions."""

import itertools
import json
import math
from collections import Counter
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.definition import parse_definition
from catalog.partitions import PartitionField, group_rows, partition_fields, spelled, split
from catalog.schema import TableSchema, arrow_type, parse_columns, with_field_ids
from duckmesh.kernel.errors import Invalid


def field(kind: str, transform: str, column: str = "c") -> PartitionField:
    return PartitionField(column=column, kind=kind, transform=transform)


def values_of(kind: str, transform: str, *values: Any) -> list[object]:
    """What a partition of each value is recorded as."""
    rows = pa.table({"c": pa.array(values, arrow_type(kind)), "place": range(len(values))})
    made = field(kind, transform)
    found: dict[int, object] = {}
    for part in split(rows, [made], most=10_000):
        for place in part.rows["place"].to_pylist():
            found[place] = part.values[made.name]
    return [found[place] for place in range(len(values))]


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


BEFORE = moment("1969-12-31T23:59:59.999999")
AFTER = moment("1970-01-01T00:00:00")


@pytest.mark.parametrize(
    ("kind", "transform", "value", "recorded"),
    [
        ("timestamp", "month", moment("2013-01-31T23:59:59.999999"), "2013-01"),
        ("timestamp", "day", moment("2013-01-31T23:59:59.999999"), "2013-01-31"),
        ("timestamp", "hour", moment("2013-01-31T23:59:59.999999"), "2013-01-31-23"),
        ("timestamp", "month", BEFORE, "1969-12"),
        ("timestamp", "day", BEFORE, "1969-12-31"),
        ("timestamp", "hour", BEFORE, "1969-12-31-23"),
        ("timestamp", "hour", AFTER, "1970-01-01-00"),
        ("timestamp", "month", moment("0001-01-01T00:00:00"), "0001-01"),
        ("timestamp", "hour", moment("9999-12-31T23:59:59"), "9999-12-31-23"),
        ("date", "month", date(2012, 2, 29), "2012-02"),
        ("date", "day", date(1969, 12, 31), "1969-12-31"),
        ("date", "hour", date(2012, 2, 29), "2012-02-29-00"),
        ("timestamp", "identity", BEFORE, "1969-12-31T23:59:59.999999"),
        ("date", "identity", date(2012, 2, 29), "2012-02-29"),
        ("bool", "identity", False, False),
        ("int32", "identity", -(2**31), -(2**31)),
        ("int64", "identity", 2**53 + 1, 2**53 + 1),
        ("float64", "identity", 0.1, 0.1),
        ("float64", "identity", math.inf, "inf"),
        ("float64", "identity", math.nan, "nan"),
        ("decimal(38,2)", "identity", Decimal("-0.10"), "-0.10"),
        ("string", "identity", "", ""),
        ("string", "identity", "a/b*?[é", "a/b*?[é"),
        ("string", "identity", "é" * 128, "é" * 128),
        ("json", "identity", "{}", "{}"),
        ("uuid", "identity", "F79C3E09-677C-4BBD-A479-3F349CB785E7", "f79c3e09-677c-4bbd-a479-3f349cb785e7"),
        ("binary", "identity", b"\x00\xff", "00ff"),
        ("string", "bucket[16]", "iceberg", 1210000089 % 16),
        ("int64", "bucket[7]", 34, 2017239379 % 7),
    ],
)
def test_a_value_and_null_have_their_partitions(kind: str, transform: str, value: object, recorded: object) -> None:
    found = values_of(kind, transform, value, None, value)
    assert found == [recorded, None, recorded]
    assert type(found[0]) is type(recorded)


def test_text_that_json_or_a_row_cannot_hold_is_told_apart_by_its_digest() -> None:
    texts = ["\0", "\0\0", "x" * 257, "x" * 258, "x" * 256, "a\0"]
    found = values_of("string", "identity", *texts)
    assert len({json.dumps(value) for value in found}) == len(texts)
    assert [isinstance(value, dict) for value in found] == [True, True, True, True, False, True]
    assert "\0" not in json.dumps(found).encode().decode("unicode_escape")
    assert isinstance(values_of("binary", "identity", b"x" * 129)[0], dict)


@pytest.mark.parametrize(("transform", "unit"), [("month", None), ("day", 24), ("hour", 1)])
def test_moments_beyond_the_years_that_are_written_have_partitions(transform: str, unit: int | None) -> None:
    far = pa.array([-(2**63), 2**63 - 1, 0], pa.int64()).cast(pa.timestamp("us"))
    parts = split(pa.table({"c": far}), [field("timestamp", transform)], most=10)
    assert [part.rows.num_rows for part in parts] == [1, 1, 1]
    assert len({spelled(part.values) for part in parts}) == 3
    if unit:
        hours = (2**63 - 1) // 3_600_000_000
        assert parts[1].values[f"c_{transform}"] == str(hours // unit)


@given(st.lists(st.integers(-(2**62), 2**62)))
def test_hours_divide_days_and_days_divide_months(micros: list[int]) -> None:
    rows = pa.table({"c": pa.array(micros, pa.int64()).cast(pa.timestamp("us"))})
    finer = [group_rows(rows, [field("timestamp", name)]).groups.to_pylist() for name in ("hour", "day", "month")]
    for fine, coarse in itertools.pairwise(finer):
        assert len(set(zip(fine, coarse, strict=True))) == len(set(fine))


def test_fields_are_named_as_iceberg_names_them() -> None:
    columns = with_field_ids(
        parse_columns([{"name": "At", "type": "timestamp"}, {"name": "c", "type": "string"}]), first=1
    )
    spec = {"fields": [{"column": "at", "transform": "day"}, {"column": "c", "transform": "identity"}]}
    spec["fields"].append({"column": "c", "transform": "bucket[16]"})
    fields = partition_fields(spec, schema=TableSchema(version=1, columns=columns))
    assert [made.name for made in fields] == ["At_day", "c", "c_bucket_16"]
    assert partition_fields({}, schema=TableSchema(version=1, columns=columns)) == ()


@given(
    st.lists(st.tuples(st.sampled_from(["a", "b", None, ""]), st.integers(0, 3) | st.none()), min_size=1),
    st.integers(1, 20),
)
def test_every_row_is_in_one_part_and_keeps_its_order(rows: list[tuple[str | None, int | None]], most: int) -> None:
    texts, numbers = [text for text, _ in rows], [number for _, number in rows]
    table = pa.table(
        {
            "t": pa.chunked_array([texts[:3], texts[3:]], pa.string()),
            "n": pa.array(numbers, pa.int64()),
            "place": range(len(rows)),
        }
    )
    parts = split(table, [field("string", "identity", "t"), field("int64", "identity", "n")], most=most)
    assert len(parts) <= most
    assert sorted(place for part in parts for place in part.rows["place"].to_pylist()) == list(range(len(rows)))
    sizes = Counter(rows)
    for part in parts:
        places = part.rows["place"].to_pylist()
        assert places == sorted(places)
        held = {rows[place] for place in places}
        if part.values:
            assert held == {(part.values["t"], part.values["n"])}
            assert len(places) == sizes[held.pop()], "all rows of the partition"
    kept = [part.rows.num_rows for part in parts if part.values]
    mixed = {rows[place] for part in parts if not part.values for place in part.rows["place"].to_pylist()}
    if len(sizes) <= most:
        assert not mixed
    else:
        assert len(kept) == most - 1
        assert max(sizes[one] for one in mixed) <= min(kept, default=len(rows))


def test_a_hundred_thousand_partitions_are_no_trouble() -> None:
    table = pa.table({"c": pa.array([*range(100_000), *range(10)], pa.int64())})
    parts = split(table, [field("int64", "identity")], most=11)
    assert [part.rows.num_rows for part in parts] == [2] * 10 + [99_990]
    assert [part.values for part in parts] == [*({"c": n} for n in range(10)), {}]


def definition_with(*fields: tuple[str, str]) -> dict[str, Any]:
    columns = [("a", "timestamp"), ("a_day", "string"), ("l", "list<int64>"), ("n", "int64")]
    return {
        "table_name": "t",
        "schema_json": {"columns": [{"name": name, "type": kind} for name, kind in columns]},
        "partition_spec": {"fields": [{"column": column, "transform": transform} for column, transform in fields]},
    }


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ([("l", "identity")], "is a list"),
        ([("l", "bucket[4]")], "is a list"),
        ([("a", "day"), ("a_day", "identity")], "two fields would be called a_day"),
        ([("n", "bucket[4]"), ("n", "bucket[4]")], "two fields would be called n_bucket_4"),
    ],
)
def test_a_spec_whose_partitions_could_not_be_told_apart_is_refused(fields: list[tuple[str, str]], reason: str) -> None:
    with pytest.raises(Invalid, match=reason):
        parse_definition(definition_with(*fields))


def test_a_column_may_be_in_several_fields() -> None:
    json = definition_with(("n", "bucket[4]"), ("n", "bucket[8]"), ("a", "day"), ("a", "hour"))
    assert parse_definition(json).partition_spec == json["partition_spec"]
