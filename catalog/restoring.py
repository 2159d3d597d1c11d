"""Which columns a restored table gets. Pure.

They are those of the snapshot. But writes that come after the restore may have been accepted before it was applied, for
the columns of that time: what they hold must not be lost. For them a column stays as wide as it had become, and one
that is newer stays beside the old ones.
"""

from collections.abc import Iterable
from dataclasses import replace

from catalog.schema import MAX_COLUMNS, Column, TableSchema
from storage.conversion import NUMBER, is_convertible

_WIDE = "wide"


def restored_columns(then: TableSchema, *, waiting: Iterable[TableSchema]) -> tuple[Column, ...]:
    """The columns of `then`, such that rows of the versions `waiting` can be written too.

    Not kept is a column whose name another one has taken back: its values are left out, as of a dropped column.
    """
    columns = {column.field_id: column for column in then.columns}
    for schema in waiting:
        # Versions are numbered in the order of time: what is older than the snapshot is conformed as ever.
        if schema.version > then.version and schema.columns != then.columns:
            columns = _with(columns, schema)
    return tuple(columns.values())


def _with(columns: dict[int, Column], schema: TableSchema) -> dict[int, Column]:
    theirs = {column.field_id: column for column in schema.columns}
    held = {
        field_id: _holding(column, theirs[field_id]) if field_id in theirs else replace(column, nullable=True)
        for field_id, column in columns.items()
    }
    names = {column.name.lower() for column in held.values()}
    for field_id, column in theirs.items():
        if field_id not in held and column.name.lower() not in names and len(held) < MAX_COLUMNS:
            held[field_id] = replace(column, nullable=True)
            names.add(column.name.lower())
    return held


def _holding(column: Column, other: Column) -> Column:
    """The column, of a type that holds the values of the other one too, where one of their two types does."""
    nullable = column.nullable or other.nullable
    if column.type == other.type:
        return replace(column, nullable=nullable, holds=_both(column.holds, other.holds))
    kinds = {(column.type, column.holds), (other.type, other.holds)}
    if kinds == {("int64", _WIDE), ("float64", "")}:
        return replace(column, nullable=nullable, type="string", holds=NUMBER)
    if is_convertible(from_type=column.type, from_holds=column.holds, to_type=other.type, to_holds=other.holds):
        return replace(column, nullable=nullable, type=other.type, holds=other.holds)
    return replace(column, nullable=nullable)


def _both(one: str, other: str) -> str:
    """What values of either kind hold: integers some of which are wide, strings not all of which are numbers."""
    if one == other:
        return one
    return _WIDE if _WIDE in (one, other) else ""
