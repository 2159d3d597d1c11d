"""The bus. An event is an envelope: one request's records as one Arrow batch.

Only `ingest.bus` and its SQL change these rows.
"""

from typing import Any

from django.contrib.postgres.fields import ArrayField
from django.contrib.postgres.indexes import BrinIndex
from django.db import models
from django.db.models import F, Q, UniqueConstraint
from django.db.models.functions import Now

from catalog.models import TableDef, Tenant


class IngestEvent(models.Model):
    """One accepted request. Its kept records hold the tokens `first_token` … `last_token` in their order.

    Without a table it is the order to restore the snapshot `restore_to`, which has one token and no records.
    """

    class State(models.TextChoices):
        PENDING = "pending"
        COMMITTED = "committed"
        FAILED = "failed"
        DISCARDED = "discarded"
        DROPPED = "dropped"

    event_id = models.BigAutoField(primary_key=True)
    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, db_constraint=False, db_index=False)
    table = models.ForeignKey(TableDef, null=True, on_delete=models.PROTECT, db_constraint=False, db_index=False)
    restore_to = models.BigIntegerField(null=True)
    asked_by = models.CharField(max_length=200, default="", db_default="")
    schema_version = models.IntegerField()
    first_token = models.BigIntegerField()
    last_token = models.BigIntegerField()
    record_count = models.IntegerField()
    excluded: "ArrayField[list[int], list[int]]" = ArrayField(models.IntegerField(), default=list)
    size_bytes = models.BigIntegerField()
    min_event_time = models.DateTimeField(null=True)
    max_event_time = models.DateTimeField(null=True)
    state = models.CharField(max_length=16, choices=State, default=State.PENDING, db_default="pending")
    attempts = models.IntegerField(default=0, db_default=0)
    error: "models.JSONField[dict[str, Any] | None, dict[str, Any] | None]" = models.JSONField(null=True)
    snapshot_id = models.BigIntegerField(null=True)
    # The snapshot whose watermark went past it when it failed. Never cleared: whatever becomes of it, the snapshots
    # from this one on and before `snapshot_id` do not hold it. Not to be purged while any of them is kept.
    passed_in = models.BigIntegerField(null=True)
    accepted_at = models.DateTimeField(db_default=Now())
    # A pending envelope that failed alone is not tried again before this time.
    retry_at = models.DateTimeField(null=True)
    failed_at = models.DateTimeField(null=True)
    # When all that was accepted up to here is paid for, at the tenant's rate in records and in bytes. Null: no rate.
    records_paid_at = models.DateTimeField(null=True)
    bytes_paid_at = models.DateTimeField(null=True)

    class Meta:
        db_table = "ingest_event"
        constraints = [
            # The index that gives the next token; it also makes two envelopes with one token impossible.
            UniqueConstraint(fields=["tenant", "last_token"], name="ingest_event_token"),
            models.CheckConstraint(
                condition=Q(
                    record_count__gte=1,
                    first_token__gte=1,
                    last_token=F("first_token") + F("record_count") - 1,
                ),
                name="ingest_event_tokens",
            ),
            models.CheckConstraint(
                condition=Q(table__isnull=False, restore_to=None)
                | Q(table=None, restore_to__isnull=False, record_count=1),
                name="ingest_event_writes_or_restores",
            ),
            models.CheckConstraint(
                condition=Q(state__in=["pending", "committed", "failed", "discarded", "dropped"]),
                name="ingest_event_state",
            ),
            models.CheckConstraint(
                condition=Q(state="committed", snapshot_id__isnull=False) | ~Q(state="committed") & Q(snapshot_id=None),
                name="ingest_event_committed_in_a_snapshot",
            ),
            models.CheckConstraint(
                condition=~Q(state="failed") | Q(error__isnull=False, passed_in__isnull=False),
                name="ingest_event_failed_says_why",
            ),
            models.CheckConstraint(
                condition=Q(passed_in=None) | Q(snapshot_id=None) | Q(snapshot_id__gt=F("passed_in")),
                name="ingest_event_passed",
            ),
        ]
        indexes = [
            models.Index(
                fields=["tenant", "first_token"],
                condition=Q(state="pending", passed_in=None),
                name="ingest_event_pending",
            ),
            models.Index(
                fields=["tenant", "first_token"], condition=Q(passed_in__isnull=False), name="ingest_event_holes"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.tenant_id} {self.first_token}…{self.last_token}"


class IngestPayload(models.Model):
    """The records of an envelope that is not yet committed. A table of its own: what is done goes cheaply."""

    event = models.OneToOneField(IngestEvent, primary_key=True, on_delete=models.PROTECT, db_constraint=False)
    payload = models.BinaryField()

    class Meta:
        db_table = "ingest_payload"

    def __str__(self) -> str:
        return f"payload of {self.event_id}"


class IngestStaged(models.Model):
    """A large payload that lies in the object store instead. The row is there before the object and goes after it.

    Without an event nothing names it: its request is under way, or came to nothing.
    """

    staged_id = models.BigAutoField(primary_key=True)
    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, db_index=False)
    event = models.OneToOneField(IngestEvent, null=True, on_delete=models.PROTECT, db_constraint=False)
    path = models.CharField(max_length=500)
    size_bytes = models.BigIntegerField()
    created_at = models.DateTimeField(db_default=Now())
    # Marked before the object is deleted: what would publish it meanwhile finds the mark and starts again.
    doomed_at = models.DateTimeField(null=True)

    class Meta:
        db_table = "ingest_staged"
        constraints = [
            UniqueConstraint(fields=["path"], name="ingest_staged_path"),
            models.CheckConstraint(condition=Q(size_bytes__gt=0), name="ingest_staged_size"),
        ]

    def __str__(self) -> str:
        return self.path


class IngestKey(models.Model):
    """An idempotency key that was used: a record's or a whole request's, apart by the hash's domain."""

    pk = models.CompositePrimaryKey("table_id", "key_hash")
    table_id = models.BigIntegerField()
    key_hash = models.UUIDField()
    payload_hash = models.UUIDField()
    event_id = models.BigIntegerField()

    class Meta:
        db_table = "ingest_key"
        indexes = [
            # Keys lie in the order of their envelopes, as long as room is not used again; after that, in a few such
            # orders. This index finds them for a purge or a discard and costs insertion few per cent, a B-tree a tenth.
            BrinIndex(
                fields=["event_id"],
                name="ingest_key_event",
                opclasses=["int8_minmax_multi_ops"],
                autosummarize=True,
                pages_per_range=128,
            )
        ]

    def __str__(self) -> str:
        return str(self.key_hash)


class IngestClaimBatch(models.Model):
    """A lease on the oldest pending envelopes of one tenant. `epoch` grows with each claim and fences the late."""

    class State(models.TextChoices):
        CLAIMED = "claimed"
        COMMITTED = "committed"
        RELEASED = "released"
        EXPIRED = "expired"

    batch_id = models.BigAutoField(primary_key=True)
    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, db_index=False)
    consumer_id = models.CharField(max_length=200)
    epoch = models.BigIntegerField()
    lease_until = models.DateTimeField()
    state = models.CharField(max_length=16, choices=State, default=State.CLAIMED)
    # The most envelopes the next claim may take: halved after a failure, doubled after a success.
    envelope_limit = models.IntegerField()
    snapshot_id = models.BigIntegerField(null=True)
    claimed_at = models.DateTimeField(db_default=Now())
    ended_at = models.DateTimeField(null=True)

    class Meta:
        db_table = "ingest_claim_batch"
        constraints = [
            UniqueConstraint(fields=["tenant"], condition=Q(state="claimed"), name="ingest_claim_one_live"),
            UniqueConstraint(fields=["tenant", "epoch"], name="ingest_claim_epoch"),
            models.CheckConstraint(
                condition=Q(state__in=["claimed", "committed", "released", "expired"]),
                name="ingest_claim_state",
            ),
            models.CheckConstraint(
                condition=Q(state="claimed", ended_at=None) | ~Q(state="claimed") & Q(ended_at__isnull=False),
                name="ingest_claim_ended",
            ),
            models.CheckConstraint(condition=Q(envelope_limit__gte=1, epoch__gte=1), name="ingest_claim_counters"),
        ]

    def __str__(self) -> str:
        return f"{self.tenant_id} claim {self.epoch} by {self.consumer_id}"


class IngestClaimItem(models.Model):
    """An envelope in a claim."""

    pk = models.CompositePrimaryKey("batch_id", "event_id")
    batch = models.ForeignKey(IngestClaimBatch, on_delete=models.CASCADE, related_name="items", db_index=False)
    event = models.ForeignKey(IngestEvent, on_delete=models.CASCADE, db_constraint=False)

    class Meta:
        db_table = "ingest_claim_item"

    def __str__(self) -> str:
        return f"{self.batch_id}: {self.event_id}"


class BeatTick(models.Model):
    """One row: when a worker last did what beat sends every second."""

    one = models.BooleanField(primary_key=True, default=True)
    ticked_at = models.DateTimeField()

    class Meta:
        db_table = "beat_tick"
        constraints = [models.CheckConstraint(condition=Q(one=True), name="beat_tick_one")]

    def __str__(self) -> str:
        return self.ticked_at.isoformat()
