"""Tables and their schema versions, both valid for an interval of snapshots: old snapshots keep the old names."""

from typing import Any

from django.db import models
from django.db.models import F, Q, UniqueConstraint
from django.db.models.functions import Lower, Now

from catalog.models.tenant import Tenant


class TableDef(models.Model):
    """A table from the snapshot `created_in` up to, not including, `dropped_in`. A name created anew is another row.

    A restore may bring a dropped table back: then `created_in` is the restore's; what was before is a `TableInterval`.
    """

    class Compatibility(models.TextChoices):
        BACKWARD = "backward"
        FORWARD = "forward"
        FULL = "full"
        NONE = "none"

    table_id = models.BigAutoField(primary_key=True)
    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="tables")
    name = models.CharField(max_length=63)
    schema_version = models.IntegerField(default=1)
    next_field_id = models.IntegerField()
    # Ingest adds a column for each new field.
    grows = models.BooleanField(default=False)
    primary_key_cols: "models.JSONField[list[str], list[str]]" = models.JSONField(default=list)
    partition_spec: "models.JSONField[dict[str, Any], dict[str, Any]]" = models.JSONField(default=dict)
    sort_cols: "models.JSONField[list[str], list[str]]" = models.JSONField(default=list)
    compatibility_mode = models.CharField(max_length=16, choices=Compatibility, default=Compatibility.BACKWARD)
    created_in = models.BigIntegerField()
    dropped_in = models.BigIntegerField(null=True)
    created_at = models.DateTimeField(db_default=Now())
    created_by = models.CharField(max_length=200)

    class Meta:
        db_table = "table_def"
        constraints = [
            UniqueConstraint("tenant", Lower("name"), condition=Q(dropped_in=None), name="table_def_live_name"),
            UniqueConstraint(fields=["tenant", "table_id"], name="table_def_of_tenant"),
            models.CheckConstraint(
                condition=Q(name__regex=r"^[A-Za-z_][A-Za-z0-9_]{0,62}$"), name="table_def_name_form"
            ),
            models.CheckConstraint(
                condition=Q(compatibility_mode__in=["backward", "forward", "full", "none"]),
                name="table_def_compatibility",
            ),
            models.CheckConstraint(
                condition=Q(dropped_in=None) | Q(dropped_in__gt=F("created_in")), name="table_def_interval"
            ),
            models.CheckConstraint(condition=Q(schema_version__gte=1, next_field_id__gte=1), name="table_def_counters"),
        ]

    def __str__(self) -> str:
        return f"{self.tenant_id}.{self.name}"


class TableInterval(models.Model):
    """Earlier snapshots, from `created_in` up to `dropped_in`, of a table that was dropped and restored afterwards."""

    pk = models.CompositePrimaryKey("table_id", "created_in")
    table = models.ForeignKey(TableDef, on_delete=models.PROTECT, related_name="intervals", db_index=False)
    created_in = models.BigIntegerField()
    dropped_in = models.BigIntegerField()

    class Meta:
        db_table = "table_interval"
        constraints = [
            models.CheckConstraint(condition=Q(dropped_in__gt=F("created_in")), name="table_interval_not_empty"),
        ]

    def __str__(self) -> str:
        return f"{self.table_id} [{self.created_in}, {self.dropped_in})"


class TableSchemaVersion(models.Model):
    """One schema of a table, in force from the snapshot `added_in` until the next version's."""

    table = models.ForeignKey(TableDef, on_delete=models.PROTECT, related_name="schema_versions")
    schema_version = models.IntegerField()
    schema_json: "models.JSONField[dict[str, Any], dict[str, Any]]" = models.JSONField()
    added_in = models.BigIntegerField()
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = "table_schema_version"
        constraints = [
            UniqueConstraint(fields=["table", "schema_version"], name="table_schema_version_number"),
            models.CheckConstraint(condition=Q(schema_version__gte=1), name="table_schema_version_counts_from_1"),
        ]

    def __str__(self) -> str:
        return f"{self.table_id} v{self.schema_version}"
