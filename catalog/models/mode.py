"""Whether the service takes writes."""

from django.db import models
from django.db.models import Q
from django.db.models.functions import Now


class ServiceMode(models.Model):
    """One row, or none as long as nobody has ever chosen a mode: then it is the normal one."""

    class Mode(models.TextChoices):
        NORMAL = "normal"
        READ_ONLY = "read-only"

    only = models.BooleanField(primary_key=True, default=True)
    mode = models.CharField(max_length=16, choices=Mode)
    reason = models.CharField(max_length=200, blank=True)
    changed_by = models.CharField(max_length=200)
    since = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = "service_mode"
        verbose_name = verbose_name_plural = "service mode"
        constraints = [
            models.CheckConstraint(condition=Q(only=True), name="service_mode_one_row"),
            models.CheckConstraint(condition=Q(mode__in=["normal", "read-only"]), name="service_mode_known"),
        ]

    def __str__(self) -> str:
        return self.mode
