"""The hash of bucket[N]: the golden values of Iceberg's specification, one by one and all at once."""

import random
from datetime import date, datetime
from decimal import Decimal

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.buckets import buckets, murmur3
from catalog.schema import arrow_type

GOLDEN = [
    ("int32", 34, 2017239379),
    ("int64", 34, 2017239379),
    ("bool", True, 1392991556),
    ("decimal(9,2)", Decimal("14.20"), -500754589),
    ("date", date(2017, 11, 16), -653330422),
    ("timestamp", datetime.fromisoformat("2017-11-16T22:31:08"), -2047944441),
    ("string", "iceberg", 1210000089),
    ("uuid", "f79c3e09-677c-4bbd-a479-3f349cb785e7", 1488055340),
    ("binary", bytes(range(4)), -188683207),
    ("float32", 1.0, -142385009),
    ("float64", 1.0, -142385009),
    ("float64", -0.0, 1669671676),
]
ALL = 2**31


@pytest.mark.parametrize(("kind", "value", "hashed"), GOLDEN)
def test_a_value_has_the_bucket_that_iceberg_gives_it(kind: str, value: object, hashed: int) -> None:
    for count in (1, 7, 16, ALL):
        expected = (hashed & 0x7FFFFFFF) % count
        assert buckets(pa.array([value, None], arrow_type(kind)), kind, count).to_pylist() == [expected, None]
        many = pa.array([value] * 100, arrow_type(kind))
        assert buckets(many, kind, count).to_pylist() == [expected] * 100


@given(st.lists(st.binary(max_size=20) | st.none(), max_size=200), st.integers(1, 99_999))
def test_values_hashed_together_have_the_hash_of_each(values: list[bytes | None], count: int) -> None:
    expected = [None if value is None else (murmur3(value) & 0x7FFFFFFF) % count for value in values]
    assert buckets(pa.array(values, pa.binary()), "binary", count).to_pylist() == expected


def test_many_values_of_each_length_have_the_hash_of_each() -> None:
    seeded = random.Random(7)
    values = [seeded.randbytes(length) for length in range(40) for _ in range(50)]
    seeded.shuffle(values)
    expected = [murmur3(value) & 0x7FFFFFFF for value in values]
    assert buckets(pa.array(values, pa.binary())[3:], "binary", ALL).to_pylist() == expected[3:]
    integers = pa.array(range(-500, 500), pa.int64())
    expected = [murmur3(n.to_bytes(8, "little", signed=True)) & 0x7FFFFFFF for n in range(-493, 500)]
    assert buckets(integers[7:], "int64", ALL).to_pylist() == expected


@pytest.mark.parametrize("digits", ["0", "-1", "127", "128", "-128", "-129", "1E+2", "99999999999999999999"])
def test_a_decimal_hashes_its_shortest_twos_complement(digits: str) -> None:
    value = pa.array([Decimal(digits)], pa.decimal128(38, 0))
    unscaled = int(Decimal(digits))
    shortest = min(n for n in range(1, 17) if -(2 ** (8 * n - 1)) <= unscaled < 2 ** (8 * n - 1))
    expected = murmur3(unscaled.to_bytes(shortest, "big", signed=True)) & 0x7FFFFFFF
    assert buckets(value, "decimal(38,0)", ALL).to_pylist() == [expected]


def test_no_values_have_no_buckets() -> None:
    for kind in ("int64", "string", "binary", "uuid", "float64"):
        assert buckets(pa.array([], arrow_type(kind)), kind, 4).to_pylist() == []
