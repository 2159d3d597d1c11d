"""What went wrong and a human should know of."""

from typing import Any

from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from catalog.models.tenant import Tenant


class IncidentAudit(models.Model):
    """One incident, written in the transaction that noticed it."""

    class Severity(models.TextChoices):
        WARNING = "warning"
        ERROR = "error"

    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, null=True)
    kind = models.CharField(max_length=63)
    severity = models.CharField(max_length=16, choices=Severity)
    message = models.TextField()
    context: "models.JSONField[dict[str, Any], dict[str, Any]]" = models.JSONField(default=dict)
    created_at = models.DateTimeField(db_default=Now())
    # The trace in whose work it came to be, as in the logs; empty of what a command did.
    trace_id = models.CharField(max_length=32, blank=True, default="", db_default="")

    class Meta:
        db_table = "incident_audit"
        constraints = [
            models.CheckConstraint(condition=Q(severity__in=["warning", "error"]), name="incident_audit_severity")
        ]
        indexes = [models.Index(fields=["tenant", "created_at"], name="incident_audit_recent")]

    def __str__(self) -> str:
        return f"{self.kind} {self.created_at}"
