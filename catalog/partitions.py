"""Rows by partition: what `partition_spec` makes of their values, and which of them share a file. Pure.

The values of a partition are JSON by the name of their field, as `data_file.partition_values` holds them: `identity`
is named as its column, the others `column_transform`, as in Apache Iceberg. Month, day and hour are text, of UTC.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from hashlib import blake2b
from typing import Any
from uuid import UUID

import pyarrow as pa
import pyarrow.compute as pc

from catalog.buckets import buckets
from catalog.schema import TableSchema
from duckmesh.kernel.errors import JSON

LONGEST_VALUE = 256  # bytes of text; longer values are told apart by their digest
_HOUR = 3_600_000_000
_DAY = 24 * _HOUR
_EPOCH = datetime.fromisoformat("1970-01-01")


@dataclass(frozen=True, kw_only=True)
class PartitionField:
    """One part of a partition: a column, its logical type, and what is made of its values."""

    column: str
    kind: str
    transform: str

    @property
    def name(self) -> str:
        """What the value is called where partitions are recorded."""
        return field_name(column=self.column, transform=self.transform)

    @property
    def buckets(self) -> int | None:
        """Into how many the values are hashed, if they are."""
        return int(self.transform[7:-1]) if self.transform.startswith("bucket") else None


@dataclass(frozen=True, kw_only=True)
class Part:
    """Rows that may share a file. Without `values` they are mixed: of several partitions, or of an undivided table."""

    values: Mapping[str, JSON]
    rows: pa.Table


def field_name(*, column: str, transform: str) -> str:
    """What the field of a partition is called."""
    return column if transform == "identity" else f"{column}_{transform.replace('[', '_').rstrip(']')}"


def partition_fields(spec: Mapping[str, Any], *, schema: TableSchema) -> tuple[PartitionField, ...]:
    """The fields of a table's `partition_spec`, in their order."""
    found = []
    for field in spec.get("fields", ()):
        column = schema.column(field["column"])
        assert column is not None, "a column that divides a table stays in it"
        found.append(PartitionField(column=column.name, kind=column.type, transform=field["transform"]))
    return tuple(found)


def named_as_in(
    present: TableSchema, values: Mapping[str, JSON], *, spec: Mapping[str, Any], written: TableSchema
) -> dict[str, JSON]:
    """The partition of a file that was written in another schema, by the names that its columns have in this one.

    It is mixed, without values, if the file does not tell all of them.
    """
    names = {column.field_id: column.name for column in written.columns}
    found: dict[str, JSON] = {}
    for field in partition_fields(spec, schema=present):
        column = present.column(field.column)
        assert column is not None, "a column that divides a table stays in it"
        former = field_name(column=names.get(column.field_id, ""), transform=field.transform)
        if former not in values:
            return {}
        found[field.name] = values[former]
    return found


@dataclass(frozen=True, kw_only=True)
class Grouping:
    """Rows and the partition each is of: `groups` numbers them, in the order of their `first` rows."""

    rows: pa.Table
    groups: pa.Array
    first: pa.Array
    sizes: pa.Array
    _labels: tuple[tuple[PartitionField, pa.Array, pa.Array], ...]

    def largest(self, limit: int) -> list[int]:
        """Up to `limit` groups, those with the most rows first."""
        ranked: list[int] = pc.sort_indices(self.sizes, sort_keys=[("", "descending")])[:limit].to_pylist()
        return ranked

    def values(self, group: int) -> dict[str, JSON]:
        """The partition of the group."""
        row = self.first[group].as_py()
        return {field.name: _json(labels[codes[row].as_py()]) for field, codes, labels in self._labels}

    def parts(self, kept: Sequence[int]) -> list[Part]:
        """The rows of each kept group, in their order; at the end those of all others, mixed."""
        if len(kept) == len(self.sizes) == 1:
            return [Part(values=self.values(0), rows=self.rows)]
        places = pc.fill_null(pc.index_in(self.groups, value_set=pa.array(kept, self.groups.type)), len(kept))
        ordered = self.rows.take(pc.sort_indices(places))
        sizes = [self.sizes[group].as_py() for group in kept]
        parts, start = [], 0
        for group, size in zip(kept, sizes, strict=True):
            parts.append(Part(values=self.values(group), rows=ordered.slice(start, size)))
            start += size
        rest = ordered.slice(start)
        return [*parts, Part(values={}, rows=rest)] if rest.num_rows else parts


def group_rows(rows: pa.Table, fields: Sequence[PartitionField]) -> Grouping:
    """The rows by partition. Null is a value of its own."""
    labels = []
    combined: pa.Array | None = None
    for field in fields:
        codes, named = _codes(rows.column(field.column).combine_chunks(), field)
        labels.append((field, codes, named))
        wide = codes.cast(pa.int64())
        # Encoded anew after each field, the product of two counts of rows is the most that is ever multiplied.
        combined = wide if combined is None else pc.add(pc.multiply(combined, len(named)), wide)
        combined = combined.dictionary_encode().indices.cast(pa.int64())
    assert combined is not None, "a partition has a field"
    numbered = pa.table({"group": combined, "row": pa.arange(0, len(combined))})
    # Without threads the groups come in the order in which they begin: in that of their numbers.
    found = numbered.group_by("group", use_threads=False).aggregate([("row", "min"), ("row", "count")])
    return Grouping(
        rows=rows,
        groups=combined,
        first=found.column("row_min").combine_chunks(),
        sizes=found.column("row_count").combine_chunks(),
        _labels=tuple(labels),
    )


def split(rows: pa.Table, fields: Sequence[PartitionField], *, most: int) -> list[Part]:
    """The rows in at most `most` parts: if there are more partitions, those with the fewest rows are mixed."""
    grouping = group_rows(rows, fields)
    count = len(grouping.sizes)
    return grouping.parts(grouping.largest(count if count <= most else most - 1))


def spelled(values: Mapping[str, JSON]) -> str:
    """The values as one text, the same for the same partition."""
    return json.dumps(values, sort_keys=True)


def _codes(values: pa.Array, field: PartitionField) -> tuple[pa.Array, pa.Array]:
    """A number for each row, and what it stands for."""
    coarse = _coarse(values, field.transform)
    encoded = coarse.dictionary_encode(null_encoding="encode")
    named = _named(encoded.dictionary, field)
    if named is encoded.dictionary:
        return encoded.indices, named
    again = named.dictionary_encode(null_encoding="encode")
    return again.indices.take(encoded.indices), again.dictionary


def _coarse(values: pa.Array, transform: str) -> pa.Array:
    """The values, or for those of time the days or hours since 1970 that they lie in: few, and still exact."""
    if transform not in ("month", "day", "hour"):
        return values
    if pa.types.is_date32(values.type):
        days = values.cast(pa.int32()).cast(pa.int64())
        return pc.multiply(days, 24) if transform == "hour" else days
    return _floor(values.cast(pa.int64()), _HOUR if transform == "hour" else _DAY)


def _floor(values: pa.Array, unit: int) -> pa.Array:
    towards_zero = pc.divide(values, unit)
    return pc.subtract(towards_zero, pc.less(values, pc.multiply(towards_zero, unit)).cast(pa.int64()))


def _named(distinct: pa.Array, field: PartitionField) -> pa.Array:
    """What each distinct value is called; several may be called the same."""
    if field.buckets is not None:
        return buckets(distinct, field.kind, field.buckets)
    if field.transform != "identity":
        return _mapped(distinct, lambda ordinal: _moment(ordinal, field.transform))
    return _mapped(distinct, lambda value: str(UUID(value))) if field.kind == "uuid" else distinct


def _mapped(distinct: pa.Array, name: Callable[[Any], str]) -> pa.Array:
    return pa.array([None if value is None else name(value) for value in distinct.to_pylist()], pa.string())


def _moment(ordinal: int, transform: str) -> str:
    try:
        moment = _EPOCH + (timedelta(hours=ordinal) if transform == "hour" else timedelta(days=ordinal))
    except OverflowError:
        return str(ordinal)  # beyond the years that Python knows: the day, counted from 1970
    return moment.isoformat()[: {"month": 7, "day": 10, "hour": 13}[transform]].replace("T", "-")


# Any: a scalar's Python value depends on its Arrow type, which pyarrow does not tell mypy.
def _json(label: Any) -> JSON:
    if not label.is_valid:
        return None
    try:
        value = label.as_py()
    except (ValueError, OverflowError):
        return str(label.value)
    if isinstance(value, float):
        return value + 0.0 if math.isfinite(value) else str(value)
    if isinstance(value, date):  # a datetime is one
        return value.isoformat()
    if isinstance(value, bytes):
        return value.hex() if 2 * len(value) <= LONGEST_VALUE else _digest(value)
    if isinstance(value, str):
        encoded = value.encode()
        # PostgreSQL's JSON holds no zero character.
        return value if len(encoded) <= LONGEST_VALUE and "\0" not in value else _digest(encoded)
    return value if isinstance(value, bool | int) else f"{value:f}"


def _digest(data: bytes) -> JSON:
    return {"digest": blake2b(data, digest_size=16).hexdigest()}
