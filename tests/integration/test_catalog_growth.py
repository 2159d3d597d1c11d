"""A growing table's next version: all of it with the write that needs it, or nothing; of two at once one waits."""

from functools import partial

import pytest
from django.db import transaction

from catalog.definition import TableDefinition
from catalog.errors import PublishConflict
from catalog.growth import grow_table
from catalog.schema import Column
from catalog.snapshots import resolve
from catalog.tables import TableInfo, create_table, drop_table, live_tables, tables_at
from tests.factories import make_table, make_tenant
from tests.together import together

pytestmark = pytest.mark.django_db(transaction=True)


def make_growing(tenant_id: str, name: str = "events") -> TableInfo:
    """A table without columns that grows."""
    definition = TableDefinition(name=name, columns=(), grows=True)
    return create_table(tenant_id=tenant_id, definition=definition, actor="test")


def column(field_id: int, name: str, type_: str = "int64", *, holds: str = "") -> Column:
    """A column that a write needs."""
    return Column(field_id=field_id, name=name, type=type_, holds=holds)


def grow(table: TableInfo, *columns: Column, ddl_version: int | None = None) -> int:
    """The table grows in a transaction of its own."""
    known = live_tables(tenant_id=table.tenant_id).ddl_version if ddl_version is None else ddl_version
    with transaction.atomic():
        return grow_table(
            tenant_id=table.tenant_id, table_id=table.table_id, ddl_version=known, columns=columns, actor="test"
        )


def test_growth_is_a_version_and_a_snapshot_of_its_own() -> None:
    table = make_growing(make_tenant())
    before = resolve(tenant_id=table.tenant_id)
    assert grow(table, column(1, "a"), column(2, "b", holds="wide")) == 2
    now = live_tables(tenant_id=table.tenant_id).find("events")
    assert (now.schema.version, now.next_field_id, now.grows) == (2, 3, True)
    assert now.schema.columns == (column(1, "a"), column(2, "b", holds="wide"))
    after = resolve(tenant_id=table.tenant_id)
    assert (after.snapshot_id, after.visible_token) == (before.snapshot_id + 1, before.visible_token)
    assert grow(table, column(1, "a", "string", holds="number"), column(2, "b", holds="wide")) == 3
    old = tables_at(tenant_id=table.tenant_id, snapshot_id=before.snapshot_id)["events"]
    middle = tables_at(tenant_id=table.tenant_id, snapshot_id=after.snapshot_id)["events"]
    assert (old.schema.columns, middle.schema) == ((), now.schema)


def test_a_field_id_is_never_given_twice() -> None:
    table = make_growing(make_tenant())
    grow(table, column(1, "a"), column(2, "b"))
    grow(table, column(1, "a", "float64"))
    assert live_tables(tenant_id=table.tenant_id).find("events").next_field_id == 3


def test_growth_under_other_tables_is_refused_and_leaves_nothing() -> None:
    table = make_growing(make_tenant())
    known = live_tables(tenant_id=table.tenant_id).ddl_version
    make_table(tenant_id=table.tenant_id, name="another")
    before = resolve(tenant_id=table.tenant_id)
    with pytest.raises(PublishConflict):
        grow(table, column(1, "a"), ddl_version=known)
    assert resolve(tenant_id=table.tenant_id) == before
    assert live_tables(tenant_id=table.tenant_id).find("events").schema.columns == ()


def test_a_dropped_table_and_one_that_does_not_grow_refuse() -> None:
    tenant_id = make_tenant()
    dropped, fixed = make_growing(tenant_id), make_table(tenant_id=tenant_id, name="fixed")
    drop_table(tenant_id=tenant_id, name="events", actor="test")
    for table in (dropped, fixed):
        with pytest.raises(PublishConflict):
            grow(table, column(1, "a"))


def test_growth_belongs_to_a_transaction() -> None:
    table = make_growing(make_tenant())
    with pytest.raises(transaction.TransactionManagementError):
        grow_table(
            tenant_id=table.tenant_id, table_id=table.table_id, ddl_version=1, columns=[column(1, "a")], actor="test"
        )


def test_writers_that_grow_one_table_at_once_each_get_their_column() -> None:
    table = make_growing(make_tenant())

    def add(name: str) -> None:
        while True:
            tables = live_tables(tenant_id=table.tenant_id)
            info = tables.find("events")
            try:
                grow(table, *info.schema.columns, column(info.next_field_id, name), ddl_version=tables.ddl_version)
                return
            except PublishConflict:
                continue

    together([partial(add, f"c{number}") for number in range(6)])
    info = live_tables(tenant_id=table.tenant_id).find("events")
    assert sorted(c.name for c in info.schema.columns) == [f"c{number}" for number in range(6)]
    assert [c.field_id for c in info.schema.columns] == [1, 2, 3, 4, 5, 6]
    assert info.schema.version == 7
