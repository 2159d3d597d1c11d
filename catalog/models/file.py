"""Data files and the intervals of snapshots they belong to."""

from typing import Any

from django.db import models
from django.db.models import F, Q, UniqueConstraint
from django.db.models.functions import Collate, Now

from catalog.models.table import TableDef
from catalog.models.tenant import Tenant


class DataFile(models.Model):
    """One immutable Parquet object. `tombstoned_at` marks it for deletion; no snapshot may name it after."""

    file_id = models.BigAutoField(primary_key=True)
    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, db_index=False)
    table = models.ForeignKey(TableDef, on_delete=models.PROTECT, related_name="files")
    path = models.CharField(max_length=500)
    row_count = models.BigIntegerField()
    size_bytes = models.BigIntegerField()
    sha256 = models.CharField(max_length=64)
    content_algorithm = models.CharField(max_length=32)
    content_hash = models.DecimalField(max_digits=39, decimal_places=0)
    schema_version = models.IntegerField()
    partition_values: "models.JSONField[dict[str, Any], dict[str, Any]]" = models.JSONField(default=dict)
    column_stats: "models.JSONField[dict[str, Any], dict[str, Any]]" = models.JSONField(default=dict)
    min_token = models.BigIntegerField()
    max_token = models.BigIntegerField()
    min_event_time = models.DateTimeField(null=True)
    max_event_time = models.DateTimeField(null=True)
    level = models.SmallIntegerField(default=0)
    # Of a keyed table: no key is in two of the folded files of one snapshot, and none of their rows is a delete.
    folded = models.BooleanField(default=False)
    created_at = models.DateTimeField(db_default=Now())
    unreferenced_since = models.DateTimeField(null=True)
    tombstoned_at = models.DateTimeField(null=True)

    class Meta:
        db_table = "data_file"
        constraints = [
            UniqueConstraint(fields=["path"], name="data_file_path"),
            UniqueConstraint(fields=["tenant", "file_id"], name="data_file_of_tenant"),
            models.CheckConstraint(
                condition=Q(row_count__gt=0, size_bytes__gt=0, level__gte=0, min_token__gte=1),
                name="data_file_counts",
            ),
            models.CheckConstraint(condition=Q(max_token__gte=F("min_token")), name="data_file_tokens"),
            models.CheckConstraint(condition=Q(sha256__regex=r"^[0-9a-f]{64}$"), name="data_file_sha256"),
            models.CheckConstraint(
                condition=Q(tombstoned_at=None) | Q(unreferenced_since__isnull=False),
                name="data_file_tombstone_after_unreferenced",
            ),
        ]
        indexes = [
            # The order in which a store lists its objects.
            models.Index(Collate("path", "C"), name="data_file_path_bytes"),
            models.Index(
                fields=["tenant", "unreferenced_since"],
                condition=Q(unreferenced_since__isnull=False),
                name="data_file_unreferenced",
            ),
        ]

    def __str__(self) -> str:
        return self.path


class SnapshotFile(models.Model):
    """In snapshot S when `added_in` ≤ S and (`removed_in` is null or `removed_in` > S). A restore adds it again."""

    pk = models.CompositePrimaryKey("file_id", "added_in")
    # Every publication writes here: no index that another one begins with.
    file = models.ForeignKey(DataFile, on_delete=models.PROTECT, related_name="intervals", db_index=False)
    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, db_index=False)
    table = models.ForeignKey(TableDef, on_delete=models.PROTECT, db_index=False)
    added_in = models.BigIntegerField()
    removed_in = models.BigIntegerField(null=True)

    class Meta:
        db_table = "snapshot_file"
        constraints = [
            models.CheckConstraint(
                condition=Q(removed_in=None) | Q(removed_in__gt=F("added_in")), name="snapshot_file_interval"
            ),
            # At most one open interval a file: it cannot be twice in one snapshot.
            UniqueConstraint(fields=["file"], condition=Q(removed_in=None), name="snapshot_file_live_once"),
        ]
        indexes = [
            models.Index(fields=["table", "added_in"], condition=Q(removed_in=None), name="snapshot_file_live"),
            models.Index(
                fields=["table", "removed_in", "added_in"],
                condition=Q(removed_in__isnull=False),
                name="snapshot_file_past",
            ),
            models.Index(fields=["tenant", "added_in"], name="snapshot_file_added"),
            models.Index(
                fields=["tenant", "removed_in"],
                condition=Q(removed_in__isnull=False),
                name="snapshot_file_removed",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.file_id} [{self.added_in}, {self.removed_in})"
