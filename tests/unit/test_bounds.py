"""Bounds of columns: whatever the values, none lies outside."""

import json
import math
from collections.abc import Sequence
from datetime import date, datetime
from decimal import Decimal
from uuid import UUID

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.schema import arrow_type
from storage.bounds import LONGEST_STRING, bounds


def bounds_of(kind: str, values: Sequence[object]) -> tuple[object, object]:
    """The bounds as the catalog keeps them: through JSON."""
    column = pa.chunked_array([values[:2], values[2:]], arrow_type(kind))
    found = json.loads(json.dumps(bounds(kind.partition("(")[0], column)))
    return found[0], found[1]


# UTF-8 sorts as code points do, and DuckDB compares bytes.
_LONG = st.builds(lambda text, times: text * times, st.text(max_size=4), st.integers(0, 200))


@given(st.lists(st.text() | _LONG, min_size=1))
def test_no_text_lies_outside_its_bounds(texts: list[str]) -> None:
    low, high = bounds_of("string", texts)
    assert isinstance(low, str)
    assert all(low.encode() <= text.encode() for text in texts)
    assert "\0" not in low
    assert len(low.encode()) <= LONGEST_STRING
    if high is not None:
        assert isinstance(high, str)
        assert all(text.encode() <= high.encode() for text in texts)
        assert "\0" not in high
        assert len(high.encode()) <= LONGEST_STRING + 4


@given(st.lists(st.decimals(allow_nan=False, allow_infinity=False, places=2, min_value=-(10**30), max_value=10**30)))
def test_decimals_are_exact(values: list[Decimal]) -> None:
    low, high = bounds_of("decimal(38,2)", values)
    if values:
        assert (Decimal(str(low)), Decimal(str(high))) == (min(values), max(values))
    else:
        assert (low, high) == (None, None)


@given(st.lists(st.datetimes() | st.none(), max_size=5))
def test_moments_sort_as_their_text(values: list[datetime | None]) -> None:
    low, high = bounds_of("timestamp", values)
    for value in values:
        if value is not None:
            assert isinstance(low, str)
            assert isinstance(high, str)
            assert low <= value.isoformat() <= high
            assert datetime.fromisoformat(low) <= value <= datetime.fromisoformat(high)


@given(st.lists(st.dates(), min_size=1))
def test_days_sort_as_their_text(values: list[date]) -> None:
    assert bounds_of("date", values) == (min(values).isoformat(), max(values).isoformat())


@given(st.lists(st.uuids(), min_size=1))
def test_uuids_sort_as_their_text(values: list[UUID]) -> None:
    assert bounds_of("uuid", [str(value) for value in values]) == (str(min(values)), str(max(values)))


@given(st.lists(st.floats(width=32), min_size=1))
@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_floats_are_bounded_or_say_nothing(kind: str, values: list[float]) -> None:
    low, high = bounds_of(kind, values)
    if any(map(math.isnan, values)):
        assert (low, high) == (None, None)
        return
    assert low is None or all(float(str(low)) <= value for value in values)
    assert high is None or all(value <= float(str(high)) for value in values)


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1))
def test_integers_keep_every_digit(values: list[int]) -> None:
    assert bounds_of("int64", values) == (min(values), max(values))
