"""What keeps files from being deleted beside snapshots: holds on them, and whose the object store is."""

import uuid

from django.db import models
from django.db.models import Q, UniqueConstraint
from django.db.models.functions import Now


class FileHold(models.Model):
    """While it lives, nothing that the catalog named when it was taken is deleted, whatever becomes of its snapshots.

    With `upto_…` it is about ids up to these only. One past `expires_at` holds nothing.
    """

    class Kind(models.TextChoices):
        BACKUP = "backup"
        DRILL = "drill"

    hold_id = models.BigAutoField(primary_key=True)
    kind = models.CharField(max_length=16, choices=Kind)
    name = models.CharField(max_length=200)
    created_at = models.DateTimeField()
    upto_file_id = models.BigIntegerField(null=True)
    upto_staged_id = models.BigIntegerField(null=True)
    expires_at = models.DateTimeField(null=True)

    class Meta:
        db_table = "file_hold"
        constraints = [
            models.CheckConstraint(condition=Q(kind__in=["backup", "drill"]), name="file_hold_kind"),
            UniqueConstraint(fields=["kind", "name"], name="file_hold_name"),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


class CatalogIdentity(models.Model):
    """Which catalog this is: one row. A catalog that was restored from a backup has another `life` than its source."""

    only = models.BooleanField(primary_key=True, default=True)
    catalog_id = models.UUIDField(default=uuid.uuid4)
    incarnation = models.BigIntegerField(default=1)
    # Two copies restored from one backup have the same incarnation, and must not be taken for each other.
    life = models.UUIDField(default=uuid.uuid4)
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = "catalog_identity"
        constraints = [
            models.CheckConstraint(condition=Q(only=True), name="catalog_identity_one_row"),
            models.CheckConstraint(condition=Q(incarnation__gte=1), name="catalog_identity_incarnation"),
        ]

    def __str__(self) -> str:
        return f"{self.catalog_id} {self.incarnation}"


class CatalogServer(models.Model):
    """The PostgreSQL on which the catalog lives: one row. On any other nothing is issued until an operator says so.

    Both numbers are 0 while an adoption is under way.
    """

    one = models.BooleanField(primary_key=True, default=True)
    system_identifier = models.BigIntegerField()
    timeline = models.BigIntegerField()
    recorded_at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = "catalog_server"
        constraints = [models.CheckConstraint(condition=Q(one=True), name="catalog_server_one_row")]

    def __str__(self) -> str:
        return f"{self.system_identifier} {self.timeline}"
