"""Snapshots of a tenant, what each changed, and the pins that hold them.

Foreign keys over (tenant, snapshot) are in the migrations: Django has no composite ones.
"""

from typing import Any

from django.db import models
from django.db.models import F, Q, UniqueConstraint
from django.db.models.functions import Now

from catalog.models.table import TableDef
from catalog.models.tenant import Tenant


class Snapshot(models.Model):
    """An immutable version of all tables of a tenant. An id below the head that has no row has expired.

    `valid_until` is set when the direct successor expires, so that a time between the two is still answered rightly.
    """

    class Kind(models.TextChoices):
        CREATE = "create"
        INGEST = "ingest"
        DDL = "ddl"
        COMPACTION = "compaction"
        RESTORE = "restore"

    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="snapshots", db_index=False)
    snapshot_id = models.BigIntegerField()
    parent_id = models.BigIntegerField(null=True)
    snapshot_time = models.DateTimeField()
    valid_until = models.DateTimeField(null=True)
    visible_token = models.BigIntegerField()
    kind = models.CharField(max_length=16, choices=Kind)
    created_by = models.CharField(max_length=200)
    summary: "models.JSONField[dict[str, Any], dict[str, Any]]" = models.JSONField(default=dict)

    class Meta:
        db_table = "snapshot"
        constraints = [
            UniqueConstraint(fields=["tenant", "snapshot_id"], name="snapshot_number"),
            UniqueConstraint(fields=["tenant", "snapshot_time"], name="snapshot_time_unique"),
            models.CheckConstraint(condition=Q(snapshot_id__gte=0, visible_token__gte=0), name="snapshot_counters"),
            models.CheckConstraint(
                # Without the second "is not null" a null parent would make the condition null, which passes.
                condition=Q(parent_id=None, snapshot_id=0) | Q(parent_id__isnull=False, parent_id__lt=F("snapshot_id")),
                name="snapshot_parent_is_older",
            ),
            models.CheckConstraint(
                condition=Q(kind__in=["create", "ingest", "ddl", "compaction", "restore"]),
                name="snapshot_kind",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.tenant_id}@{self.snapshot_id}"


class SnapshotTableWatermark(models.Model):
    """Totals of a table as of a snapshot that changed it; a snapshot that did not has no row for it."""

    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, db_index=False)
    snapshot_id = models.BigIntegerField()
    table = models.ForeignKey(TableDef, on_delete=models.PROTECT, db_index=False)
    max_token = models.BigIntegerField()
    row_count = models.BigIntegerField()
    file_count = models.BigIntegerField()
    size_bytes = models.BigIntegerField()

    class Meta:
        db_table = "snapshot_table_watermark"
        constraints = [
            UniqueConstraint(fields=["table", "snapshot_id"], name="snapshot_table_watermark_once"),
            models.CheckConstraint(
                condition=Q(max_token__gte=0, row_count__gte=0, file_count__gte=0, size_bytes__gte=0),
                name="snapshot_table_watermark_totals",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.table_id}@{self.snapshot_id}"


class SnapshotPin(models.Model):
    """A named, durable hold on a snapshot. Its foreign key makes the database refuse to expire what is pinned."""

    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="pins", db_index=False)
    name = models.CharField(max_length=63)
    snapshot_id = models.BigIntegerField()
    expires_at = models.DateTimeField(null=True)
    created_at = models.DateTimeField(db_default=Now())
    created_by = models.CharField(max_length=200)

    class Meta:
        db_table = "snapshot_pin"
        constraints = [
            UniqueConstraint(fields=["tenant", "name"], name="snapshot_pin_name"),
            models.CheckConstraint(
                condition=Q(name__regex=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}$"), name="snapshot_pin_name_form"
            ),
        ]
        indexes = [models.Index(fields=["tenant", "snapshot_id"], name="snapshot_pin_snapshot")]

    def __str__(self) -> str:
        return f"{self.tenant_id} {self.name}"
