"""The bus in Django's admin: only shown. A failed envelope is replayed or discarded through the API."""

from django.contrib import admin

from catalog.admin import ReadOnlyAdmin
from ingest.models import IngestClaimBatch, IngestEvent


@admin.register(IngestEvent)
class IngestEventAdmin(ReadOnlyAdmin):
    """Envelopes: accepted requests, without their records."""

    list_display = (
        "event_id",
        "tenant",
        "table",
        "state",
        "first_token",
        "last_token",
        "record_count",
        "accepted_at",
        "error",
    )
    list_filter = ("state", "tenant")
    list_select_related = ("tenant", "table")
    ordering = ("-event_id",)


@admin.register(IngestClaimBatch)
class IngestClaimBatchAdmin(ReadOnlyAdmin):
    """Claims: who is writing, or has written, which tenant's envelopes."""

    list_display = (
        "batch_id",
        "tenant",
        "state",
        "consumer_id",
        "epoch",
        "lease_until",
        "claimed_at",
        "ended_at",
        "snapshot_id",
    )
    list_filter = ("state", "tenant")
    ordering = ("-batch_id",)
