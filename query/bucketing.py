"""Which buckets of a `bucket[N]` partition the constants of a condition are in. Pure."""

from collections.abc import Callable, Iterable
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa

from catalog.buckets import buckets


def buckets_of(constants: Iterable[Any], *, kind: str, count: int) -> frozenset[int] | None:
    """The buckets of values of the logical type `kind`, as bounds of columns have them; None if that is not certain.

    Any: numbers and texts, by the kind.
    """
    type_, read = _ARROW.get(kind, (None, None))
    if kind.startswith("decimal"):
        type_, read = pa.decimal128(38, int(kind.partition(",")[2][:-1])), Decimal
    if type_ is None or read is None:
        return None  # floats: which of them DuckDB takes for equal is not for us to say
    try:
        values = pa.array([read(constant) for constant in constants], type_)
    except (ValueError, OverflowError, pa.ArrowException):
        return None
    return frozenset(buckets(values, kind, count).to_pylist())


_ARROW: dict[str, tuple[pa.DataType, Callable[[Any], Any]]] = {
    "bool": (pa.bool_(), bool),
    "int32": (pa.int64(), int),
    "int64": (pa.int64(), int),
    "string": (pa.string(), str),
    "uuid": (pa.string(), str),
    "date": (pa.date32(), date.fromisoformat),
    "timestamp": (pa.timestamp("us"), datetime.fromisoformat),
}
