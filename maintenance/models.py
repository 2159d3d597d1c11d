"""History of the maintenance runs: one table a kind, all of one shape."""

import uuid
from datetime import timedelta
from typing import Any

from django.db import models
from django.db.models import F, Q, UniqueConstraint
from django.db.models.functions import Now

from catalog.models import TableDef, Tenant
from maintenance.job import Kind


class Run(models.Model):
    """A leased, fenced, cancellable run, from its request to its end. docs/maintenance.md draws its states.

    Any number may be queued for a tenant and table (null: all of them); one at most is running. Its epoch grows with
    each process that takes it, and `attempts` counts those that came no further than the one before.
    """

    class State(models.TextChoices):
        QUEUED = "queued"
        RUNNING = "running"
        SUCCEEDED = "succeeded"
        FAILED = "failed"
        CANCELLED = "cancelled"

    run_id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, null=True, related_name="+")
    table = models.ForeignKey(TableDef, on_delete=models.PROTECT, null=True, related_name="+")
    state = models.CharField(max_length=16, choices=State, default=State.QUEUED)
    epoch = models.BigIntegerField(default=0)
    attempts = models.IntegerField(default=0)
    lease_until = models.DateTimeField(null=True)
    heartbeat_at = models.DateTimeField(null=True)
    poked_at = models.DateTimeField(null=True)  # when a worker was last told of it
    cancel_requested = models.BooleanField(default=False)
    progress = models.FloatField(default=0)
    phase = models.CharField(max_length=63, default="")
    options: "models.JSONField[dict[str, Any], dict[str, Any]]" = models.JSONField(default=dict)
    cursor: "models.JSONField[dict[str, Any], dict[str, Any]]" = models.JSONField(default=dict)
    steps: "models.JSONField[list[Any], list[Any]]" = models.JSONField(default=list)
    summary: "models.JSONField[dict[str, Any], dict[str, Any]]" = models.JSONField(default=dict)
    error_code = models.CharField(max_length=63, default="")
    error = models.TextField(default="")
    requested_by = models.CharField(max_length=200)
    reason = models.CharField(max_length=200, default="")
    requested_at = models.DateTimeField(db_default=Now())
    started_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True)

    class Meta:
        abstract = True

    def __str__(self) -> str:
        return f"{self._meta.db_table} {self.run_id} {self.state}"


def _constraints(kind: str) -> list[models.BaseConstraint]:
    return [
        models.CheckConstraint(condition=Q(state__in=Run.State.values), name=f"{kind}_state"),
        models.CheckConstraint(condition=Q(progress__gte=0, progress__lte=1), name=f"{kind}_progress"),
        models.CheckConstraint(
            # Without the "is not null" a null end would make the condition null, which passes.
            condition=Q(state__in=["queued", "running"], ended_at=None)
            | ~Q(state__in=["queued", "running"]) & Q(ended_at__isnull=False, ended_at__gte=F("requested_at")),
            name=f"{kind}_ended",
        ),
        models.CheckConstraint(
            condition=~Q(state="running") | Q(lease_until__isnull=False, started_at__isnull=False),
            name=f"{kind}_leased",
        ),
        UniqueConstraint(
            fields=["tenant", "table"],
            condition=Q(state="running"),
            nulls_distinct=False,
            name=f"{kind}_one_live",
        ),
    ]


def _indexes(kind: str) -> list[models.Index]:
    live, succeeded = Q(state__in=["queued", "running"]), Q(state="succeeded")
    return [
        models.Index(fields=["requested_at"], condition=live, name=f"{kind}_live"),
        models.Index(fields=["tenant", "-requested_at", "-run_id"], name=f"{kind}_history"),
        models.Index(fields=["ended_at"], name=f"{kind}_ended_at"),
        models.Index(fields=["ended_at"], condition=succeeded, name=f"{kind}_succeeded"),
    ]


class CompactionRun(Run):
    """Small files of a table rewritten into fewer."""

    class Meta:
        db_table = "compaction_run"
        constraints = _constraints("compaction_run")
        indexes = _indexes("compaction_run")


class GcRun(Run):
    """Snapshots expired, files tombstoned, objects deleted."""

    class Meta:
        db_table = "gc_run"
        constraints = _constraints("gc_run")
        indexes = _indexes("gc_run")


class IntegrityRun(Run):
    """Catalog and object store compared."""

    class Meta:
        db_table = "integrity_run"
        constraints = _constraints("integrity_run")
        indexes = _indexes("integrity_run")


class RestoreDrillRun(Run):
    """A backup restored into a scratch database and proven."""

    class Meta:
        db_table = "restore_drill_run"
        constraints = _constraints("restore_drill_run")
        indexes = _indexes("restore_drill_run")


class MaintenancePolicy(models.Model):
    """When runs of a kind are due by themselves, and with which options: for a table, a tenant, or everything.

    Of the policies of one kind and name, the most specific holds. `created_at` is what the first run waits from.
    """

    kind = models.CharField(max_length=16, choices=[(kind.value, kind.value.replace("_", " ")) for kind in Kind])
    name = models.CharField(max_length=63, default="default")
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, null=True, blank=True, related_name="+")
    # Nothing in the database holds a table for it: a dropped table may be forgotten, and housekeeping follows.
    table = models.ForeignKey(
        TableDef, on_delete=models.CASCADE, null=True, blank=True, related_name="+", db_constraint=False
    )
    enabled = models.BooleanField(default=True)
    interval = models.DurationField()
    window_start = models.TimeField(null=True, blank=True)
    window_end = models.TimeField(null=True, blank=True)
    options: "models.JSONField[dict[str, Any], dict[str, Any]]" = models.JSONField(default=dict, blank=True)
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = "maintenance_policy"
        verbose_name_plural = "maintenance policies"
        constraints = [
            models.CheckConstraint(condition=Q(kind__in=[kind.value for kind in Kind]), name="maintenance_policy_kind"),
            models.CheckConstraint(condition=Q(table=None) | Q(tenant__isnull=False), name="maintenance_policy_owner"),
            models.CheckConstraint(condition=Q(interval__gte=timedelta(seconds=1)), name="maintenance_policy_interval"),
            models.CheckConstraint(
                condition=Q(window_start=None, window_end=None)
                | Q(window_start__isnull=False, window_end__isnull=False) & ~Q(window_start=F("window_end")),
                name="maintenance_policy_window",
            ),
            UniqueConstraint(
                fields=["kind", "name", "tenant", "table"], nulls_distinct=False, name="maintenance_policy_one"
            ),
        ]

    def __str__(self) -> str:
        whose = ".".join(filter(None, (self.tenant_id, self.table.name if self.table else ""))) or "everything"
        return f"{self.kind} {self.name} of {whose}"


class MaintenanceSchedule(models.Model):
    """When a policy last asked for a run of a scope, which run that is, and the newest change of its table then."""

    kind = models.CharField(max_length=16)
    name = models.CharField(max_length=63)
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, null=True, related_name="+")
    table = models.ForeignKey(TableDef, on_delete=models.CASCADE, null=True, related_name="+", db_constraint=False)
    requested_at = models.DateTimeField()
    run_id = models.UUIDField()
    seen_snapshot = models.BigIntegerField(null=True)

    class Meta:
        db_table = "maintenance_schedule"
        constraints = [
            UniqueConstraint(
                fields=["kind", "name", "tenant", "table"], nulls_distinct=False, name="maintenance_schedule_one"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.name} {self.requested_at}"


class IntegrityFinding(models.Model):
    """One disagreement that an integrity run found. A run that is taken over finds it again and writes it once.

    The tables and files it names may be gone when it is read, so nothing holds it to them.
    """

    run = models.ForeignKey(IntegrityRun, on_delete=models.CASCADE, related_name="findings", db_index=False)
    kind = models.CharField(max_length=63)
    severity = models.CharField(max_length=16)
    runbook = models.CharField(max_length=100)
    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, null=True, related_name="+", db_index=False)
    table_id = models.BigIntegerField(null=True)
    file_id = models.BigIntegerField(null=True)
    object_key = models.CharField(max_length=1000, default="")
    detail: "models.JSONField[dict[str, Any], dict[str, Any]]" = models.JSONField(default=dict)
    # What tells it from the run's other findings of its kind.
    subject = models.CharField(max_length=64)
    found_at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = "integrity_finding"
        constraints = [
            models.CheckConstraint(
                condition=Q(severity__in=["info", "warning", "error"]), name="integrity_finding_severity"
            ),
            UniqueConstraint(fields=["run", "kind", "subject"], name="integrity_finding_once"),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.object_key}"


class OrphanSighting(models.Model):
    """An object of the store that looks like ours and that no row names, with the database's time of both sightings.

    It may be about to be named by the attempt that wrote it: only what was first seen long ago is deleted.
    """

    path = models.CharField(max_length=1000, primary_key=True)
    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="+")
    size_bytes = models.BigIntegerField()
    first_seen = models.DateTimeField(db_default=Now())
    last_seen = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = "orphan_sighting"
        constraints = [
            models.CheckConstraint(condition=Q(last_seen__gte=F("first_seen")), name="orphan_sighting_order"),
        ]

    def __str__(self) -> str:
        return self.path


class OrphanSweep(models.Model):
    """When all objects of a tenant were last listed for orphans."""

    tenant = models.OneToOneField(Tenant, primary_key=True, on_delete=models.CASCADE, related_name="+")
    ended_at = models.DateTimeField()

    class Meta:
        db_table = "orphan_sweep"

    def __str__(self) -> str:
        return f"{self.tenant_id} {self.ended_at}"


class Backup(models.Model):
    """A backup that was begun. While it is in its directory it has a hold on files of the same name."""

    class State(models.TextChoices):
        RUNNING = "running"
        COMPLETED = "completed"
        FAILED = "failed"
        DROPPED = "dropped"

    name = models.CharField(primary_key=True, max_length=63)
    directory = models.TextField()
    state = models.CharField(max_length=16, choices=State, default=State.RUNNING)
    incarnation = models.BigIntegerField()
    with_data = models.BooleanField()
    encrypted = models.BooleanField()
    dumped_at = models.DateTimeField(null=True)
    size_bytes = models.BigIntegerField(null=True)
    object_count = models.BigIntegerField(null=True)
    object_bytes = models.BigIntegerField(null=True)
    copied_bytes = models.BigIntegerField(null=True)
    seconds = models.FloatField(null=True)
    error = models.TextField(default="")
    started_at = models.DateTimeField(db_default=Now())
    ended_at = models.DateTimeField(null=True)

    class Meta:
        db_table = "backup"
        constraints = [
            models.CheckConstraint(
                condition=Q(state__in=["running", "completed", "failed", "dropped"]), name="backup_state"
            ),
            models.CheckConstraint(
                condition=~Q(state="completed")
                | Q(dumped_at__isnull=False, size_bytes__isnull=False, object_count__isnull=False),
                name="backup_completed_says_what",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.name} {self.state}"
