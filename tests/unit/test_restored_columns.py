"""Which columns a restored table gets: those of the snapshot, and what writes in flight need beside them."""

import pytest

from catalog.restoring import restored_columns
from catalog.schema import MAX_COLUMNS, Column, TableSchema

ID = Column(field_id=1, name="id", type="string", nullable=False)


def schema(version: int, *columns: Column) -> TableSchema:
    return TableSchema(version=version, columns=columns)


def value(type_: str, holds: str = "", *, field_id: int = 2, name: str = "v", nullable: bool = True) -> Column:
    return Column(field_id=field_id, name=name, type=type_, nullable=nullable, holds=holds)


def test_without_writes_in_flight_the_columns_are_those_of_the_snapshot() -> None:
    then = schema(1, ID, value("int64"))
    assert restored_columns(then, waiting=[]) == then.columns
    assert restored_columns(then, waiting=[then, schema(3, *then.columns)]) == then.columns


def test_versions_before_the_snapshot_ask_for_nothing() -> None:
    then = schema(2, ID, value("int64"))
    assert restored_columns(then, waiting=[schema(1, ID, value("string"))]) == then.columns


@pytest.mark.parametrize(
    ("then", "waiting", "kept"),
    [
        (("int32", ""), ("int64", ""), ("int64", "")),
        (("int64", ""), ("int32", ""), ("int64", "")),
        (("int64", ""), ("int64", "wide"), ("int64", "wide")),
        (("int64", "wide"), ("int64", ""), ("int64", "wide")),
        (("int64", "wide"), ("float64", ""), ("string", "number")),
        (("float64", ""), ("int64", "wide"), ("string", "number")),
        (("int64", ""), ("float64", ""), ("float64", "")),
        (("float64", ""), ("string", "number"), ("string", "number")),
        (("string", "number"), ("string", ""), ("string", "")),
        (("string", "number"), ("float64", ""), ("string", "number")),
        (("string", ""), ("json", ""), ("json", "")),
        (("json", ""), ("string", ""), ("json", "")),
        (("decimal(5,2)", ""), ("decimal(9,2)", ""), ("decimal(9,2)", "")),
        (("list<int32>", ""), ("list<int64>", ""), ("list<int64>", "")),
        (("bool", ""), ("int64", ""), ("bool", "")),
    ],
)
def test_a_column_stays_as_wide_as_a_write_needs_it(
    then: tuple[str, str], waiting: tuple[str, str], kept: tuple[str, str]
) -> None:
    columns = restored_columns(schema(1, ID, value(*then)), waiting=[schema(2, ID, value(*waiting))])
    assert columns == (ID, value(*kept))


def test_a_column_is_nullable_if_a_write_has_no_value_for_it() -> None:
    needed = value("int64", nullable=False)
    without = restored_columns(schema(1, ID, needed), waiting=[schema(2, ID)])
    assert without == (ID, value("int64"))
    loosened = restored_columns(schema(1, ID, needed), waiting=[schema(2, ID, value("int64"))])
    assert loosened == (ID, value("int64"))


def test_a_column_keeps_the_name_that_it_had_and_a_newer_one_stays_beside_it() -> None:
    renamed, newer = value("int64", name="w"), value("json", field_id=3, name="more", nullable=False)
    columns = restored_columns(schema(1, ID, value("int64")), waiting=[schema(2, ID, renamed), schema(3, ID, newer)])
    assert columns == (ID, value("int64"), value("json", field_id=3, name="more"))


def test_a_newer_column_gives_way_where_its_name_or_its_room_is_taken() -> None:
    then = schema(1, ID, value("int64"))
    assert restored_columns(then, waiting=[schema(2, ID, value("json", field_id=3, name="V"))]) == then.columns
    full = schema(1, *(value("int64", field_id=n, name=f"c{n}") for n in range(MAX_COLUMNS)))
    more = schema(2, *full.columns, value("json", field_id=MAX_COLUMNS, name="more"))
    assert restored_columns(full, waiting=[more]) == full.columns
