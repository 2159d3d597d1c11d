"""API keys. The secret itself is nowhere: the row holds what the key begins with and a keyed hash of the rest."""

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now

from catalog.models import Tenant


class Role(models.TextChoices):
    """What a key may do. None is implied by another."""

    INGEST_WRITER = "ingest_writer"
    QUERY_READER = "query_reader"
    TABLE_ADMIN = "table_admin"
    OPS_ADMIN = "ops_admin"


class ApiKey(models.Model):
    """A key of one tenant. Never deleted: a revoked one still says whose it was."""

    key_id = models.CharField(primary_key=True, max_length=16)
    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="api_keys")
    name = models.CharField(max_length=200, blank=True)
    prefix = models.CharField(max_length=32)
    key_hash = models.CharField(max_length=64)
    roles = ArrayField(models.CharField(max_length=32, choices=Role))
    created_at = models.DateTimeField(db_default=Now())
    created_by = models.CharField(max_length=200)
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        db_table = "api_key"
        verbose_name = "API key"
        constraints = [
            models.CheckConstraint(
                condition=Q(
                    roles__contained_by=["ingest_writer", "query_reader", "table_admin", "ops_admin"], roles__len__gte=1
                ),
                name="api_key_roles",
            ),
            models.CheckConstraint(condition=Q(key_id__regex=r"^[a-z0-9]{12}$"), name="api_key_id_form"),
            models.CheckConstraint(condition=Q(key_hash__regex=r"^[0-9a-f]{64}$"), name="api_key_hash_form"),
            models.CheckConstraint(
                condition=Q(expires_at=None) | Q(expires_at__gt=F("created_at")), name="api_key_expires_later"
            ),
        ]

    def __str__(self) -> str:
        return self.prefix
