"""Tenants, and the one row of each that orders everything published for it."""

from typing import Any

from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

LIMITS = (
    "max_records_per_second",
    "max_bytes_per_second",
    "max_pending_records",
    "max_stored_bytes",
    "max_stored_files",
)


class Tenant(models.Model):
    """Owner of tables and keys. `ddl_version` changes, under the token lock, with every change of its tables.

    Its limits stand here, in the row that every write reads: a change holds from the next write on, in every process.
    Null is the default of the configuration, 0 is no limit.
    """

    class State(models.TextChoices):
        ACTIVE = "active"
        SUSPENDED = "suspended"

    tenant_id = models.CharField(primary_key=True, max_length=63)
    name = models.CharField(max_length=200)
    state = models.CharField(max_length=16, choices=State, default=State.ACTIVE)
    ddl_version = models.BigIntegerField(default=0)
    max_records_per_second = models.BigIntegerField(null=True, blank=True)
    max_bytes_per_second = models.BigIntegerField(null=True, blank=True)
    max_pending_records = models.BigIntegerField(null=True, blank=True)
    max_stored_bytes = models.BigIntegerField(null=True, blank=True)
    max_stored_files = models.BigIntegerField(null=True, blank=True)
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = "tenant"
        constraints = [
            # The id is a directory of the object store: nothing that a path could misread.
            models.CheckConstraint(condition=Q(tenant_id__regex=r"^[a-z0-9][a-z0-9_-]{0,62}$"), name="tenant_id_form"),
            models.CheckConstraint(condition=Q(state__in=["active", "suspended"]), name="tenant_state"),
            *(
                models.CheckConstraint(condition=Q(**{limit: None}) | Q(**{f"{limit}__gte": 0}), name=f"tenant_{limit}")
                for limit in LIMITS
            ),
        ]

    def __str__(self) -> str:
        return self.tenant_id


class TenantCatalog(models.Model):
    """The head of a tenant's history. Whoever changes the history locks this row first; acknowledgements never do.

    `stored_bytes` and `stored_files` count the data files that have a row, of old snapshots too, until it is deleted.
    """

    tenant = models.OneToOneField(Tenant, primary_key=True, on_delete=models.PROTECT, related_name="catalog")
    snapshot_seq = models.BigIntegerField(default=0)
    visible_token = models.BigIntegerField(default=0)
    snapshot_time = models.DateTimeField(db_default=Now())
    token_floor = models.BigIntegerField(default=0)
    incarnation = models.BigIntegerField(default=1)
    stored_bytes = models.BigIntegerField(default=0)
    stored_files = models.BigIntegerField(default=0)

    class Meta:
        db_table = "tenant_catalog"
        constraints = [
            models.CheckConstraint(
                condition=Q(snapshot_seq__gte=0, visible_token__gte=0, token_floor__gte=0, incarnation__gte=1),
                name="tenant_catalog_counters",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.tenant_id} at {self.snapshot_seq}"


class TenantLimitChange(models.Model):
    """Who changed which limits of a tenant, and when: `changes` maps a limit to what it was and what it became."""

    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, db_index=False, related_name="limit_changes")
    changes: "models.JSONField[dict[str, Any], dict[str, Any]]" = models.JSONField()
    changed_by = models.CharField(max_length=200)
    changed_at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = "tenant_limit_change"
        indexes = [models.Index(fields=["tenant", "changed_at"], name="tenant_limit_change_recent")]

    def __str__(self) -> str:
        return f"{self.tenant_id} by {self.changed_by}"
