"""What a restore of the whole catalog has left out of a tenant's history."""

from django.db import models
from django.db.models import F, Q, UniqueConstraint
from django.db.models.functions import Now

from catalog.models.tenant import Tenant


class VoidRange(models.Model):
    """Tokens and snapshot ids that the catalog before a restore may have issued, and this one never has or will.

    `incarnation` is the one that began with the restore; `dumped_at` is the moment whose state was restored.
    """

    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="void_ranges", db_index=False)
    incarnation = models.BigIntegerField()
    first_token = models.BigIntegerField()
    last_token = models.BigIntegerField()
    first_snapshot_id = models.BigIntegerField()
    last_snapshot_id = models.BigIntegerField()
    dumped_at = models.DateTimeField()
    restored_at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = "void_range"
        constraints = [
            UniqueConstraint(fields=["tenant", "incarnation"], name="void_range_once"),
            models.CheckConstraint(
                condition=Q(
                    first_token__gte=1,
                    last_token__gte=F("first_token"),
                    first_snapshot_id__gte=1,
                    last_snapshot_id__gte=F("first_snapshot_id"),
                ),
                name="void_range_not_empty",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.tenant_id} before {self.incarnation}"
