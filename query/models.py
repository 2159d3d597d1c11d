"""The query plane's one table."""

from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from catalog.models import Tenant


class QueryAudit(models.Model):
    """One query that was asked, by whom and how it ended. Of the statement only a hash is kept: literals are data."""

    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, db_index=False)
    key_id = models.CharField(max_length=64)
    snapshot_id = models.BigIntegerField(null=True)
    sql_hash = models.CharField(max_length=64)
    outcome = models.CharField(max_length=40)
    duration_ms = models.FloatField()
    row_count = models.BigIntegerField()
    size_bytes = models.BigIntegerField()
    at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = "query_audit"
        constraints = [
            models.CheckConstraint(condition=Q(sql_hash__regex=r"^[0-9a-f]{64}$"), name="query_audit_sql_hash"),
            models.CheckConstraint(
                condition=Q(duration_ms__gte=0, row_count__gte=0, size_bytes__gte=0), name="query_audit_counts"
            ),
            models.CheckConstraint(condition=~Q(outcome="ok") | Q(snapshot_id__isnull=False), name="query_audit_ok"),
        ]
        indexes = [models.Index(fields=["tenant", "at"], name="query_audit_recent")]

    def __str__(self) -> str:
        return f"{self.tenant_id} {self.outcome} {self.at}"
