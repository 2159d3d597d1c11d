"""The query plane's two tables: the queries that have ended, and those long ones that have not."""

from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from catalog.models import Tenant


class QueryAudit(models.Model):
    """One query that was asked, by whom and how it ended.

    Of the statement only a hash is kept, unless the operator lets its text be kept too: literals are data.
    """

    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, db_index=False)
    key_id = models.CharField(max_length=64)
    snapshot_id = models.BigIntegerField(null=True)
    query_id = models.CharField(max_length=32, db_default="")
    sql_hash = models.CharField(max_length=64)
    sql_text = models.TextField(null=True)
    outcome = models.CharField(max_length=40)
    duration_ms = models.FloatField()
    row_count = models.BigIntegerField()
    size_bytes = models.BigIntegerField()
    at = models.DateTimeField(db_default=Now())
    written_at = models.DateTimeField(db_default=Now())  # by the database's clock: the age that permits deletion

    class Meta:
        db_table = "query_audit"
        constraints = [
            models.CheckConstraint(condition=Q(sql_hash__regex=r"^[0-9a-f]{64}$"), name="query_audit_sql_hash"),
            models.CheckConstraint(
                condition=Q(duration_ms__gte=0, row_count__gte=0, size_bytes__gte=0), name="query_audit_counts"
            ),
            models.CheckConstraint(condition=~Q(outcome="ok") | Q(snapshot_id__isnull=False), name="query_audit_ok"),
        ]
        indexes = [
            models.Index(fields=["tenant", "at"], name="query_audit_recent"),
            models.Index(fields=["tenant", "at"], name="query_audit_not_ok", condition=~Q(outcome="ok")),
        ]

    def __str__(self) -> str:
        return f"{self.tenant_id} {self.outcome} {self.at}"


class RunningQuery(models.Model):
    """One query that has been running for a moment, written by the process that runs it; see `query.inflight`."""

    query_id = models.CharField(max_length=32, primary_key=True)
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE)
    key_id = models.CharField(max_length=64)
    sql_hash = models.CharField(max_length=64)
    sql_text = models.TextField()
    started_at = models.DateTimeField()
    seen_at = models.DateTimeField()
    cancel_requested_at = models.DateTimeField(null=True)

    class Meta:
        db_table = "query_running"

    def __str__(self) -> str:
        return f"{self.tenant_id} {self.query_id}"
