"""Migrations beside the version that runs: what they may do, and that they wait for nobody for long."""

import time
from contextlib import closing

import pytest
from django.db import OperationalError, connection, migrations, models
from django.db.migrations.loader import MigrationLoader

from catalog.models import Tenant
from duckmesh.postgresql.schema import LOCK_SECONDS
from tests.migration_rules import hazards, names

OURS = {"api", "catalog", "ingest", "maintenance", "query"}

# Made before 0.1.0 was released: no version ran that they could have disturbed. Nothing is ever added here.
BEFORE_THE_FIRST_RELEASE = {
    "catalog.0003_limits_growth_and_folds",
    "ingest.0007_housekeeping",
    "ingest.0008_restores",
    "maintenance.0002_integrity_findings",
    "maintenance.0003_queued_runs",
}


def test_no_migration_disturbs_the_version_before_it() -> None:
    loader = MigrationLoader(None)
    found = {key: hazards(one) for key, one in loader.disk_migrations.items() if key[0] in OURS}
    new = {key: what for key, what in found.items() if what and not names([key]) & BEFORE_THE_FIRST_RELEASE}
    assert new == {}
    assert names([key for key, what in found.items() if what]) == BEFORE_THE_FIRST_RELEASE


@pytest.mark.parametrize(
    "operation",
    [
        migrations.AddField("tenant", "colour", models.TextField()),
        migrations.RenameField("tenant", "name", "title"),
        migrations.RemoveField("tenant", "name"),
        migrations.DeleteModel("tenant"),
        migrations.AddIndex("tenant", models.Index(fields=["name"], name="tenant_by_name")),
        migrations.AddConstraint(
            "tenant", models.CheckConstraint(condition=models.Q(name__gt=""), name="tenant_has_a_name")
        ),
    ],
    ids=lambda operation: type(operation).__name__,
)
def test_what_would_disturb_it_is_found(operation: migrations.operations.base.Operation) -> None:
    assert len(hazards(_migration(operation))) == 1


def test_what_would_not_is_not() -> None:
    added = migrations.AddField("tenant", "colour", models.TextField(null=True))
    filled = migrations.AddField("tenant", "size", models.IntegerField(db_default=0))
    assert hazards(_migration(added, filled)) == []


def test_without_a_transaction_only_concurrent_indexes_are_made() -> None:
    plain = _migration(migrations.RunSQL("SELECT 1"))
    plain.atomic = False
    assert len(hazards(plain)) == 1


@pytest.mark.django_db(transaction=True)
def test_a_change_fails_rather_than_wait_for_a_lock_that_everybody_behind_it_would_wait_for() -> None:
    field = models.TextField(null=True)
    field.set_attributes_from_name("colour")
    other = connection.copy()
    with closing(other), other.cursor() as cursor:
        cursor.execute("BEGIN; LOCK TABLE tenant IN ACCESS SHARE MODE")
        began = time.monotonic()
        with pytest.raises(OperationalError, match="lock timeout"), connection.schema_editor(atomic=True) as editor:
            editor.add_field(Tenant, field)
        assert LOCK_SECONDS - 0.5 < time.monotonic() - began < LOCK_SECONDS + 20
    with connection.cursor() as cursor:
        cursor.execute("SHOW lock_timeout")
        assert cursor.fetchone() == ("0",), "only within the change"


def _migration(*operations: migrations.operations.base.Operation) -> migrations.Migration:
    made = migrations.Migration("made_up", "catalog")
    made.operations = list(operations)
    return made
