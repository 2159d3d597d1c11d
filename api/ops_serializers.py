"""Shapes of what an operator is answered: limits, failed writes, lag and readiness."""

from rest_framework import serializers

from api.serializers import Shape
from catalog.models import ServiceMode
from catalog.server import Standing
from ingest.guard import Shortage


class LimitsOfTenant(Shape):
    """Bounds on what the tenant may use; 0 is none. Beyond each, writes are answered 429."""

    max_records_per_second = serializers.IntegerField()
    max_bytes_per_second = serializers.IntegerField(help_text="Of writes, decoded and compressed.")
    max_pending_records = serializers.IntegerField(help_text="Accepted and not yet visible.")
    max_stored_bytes = serializers.IntegerField()
    max_stored_files = serializers.IntegerField()


class UsageOfTenant(Shape):
    """What the tenant uses at this moment."""

    stored_bytes = serializers.IntegerField(help_text="Of all data files that are kept, those of old snapshots too.")
    stored_files = serializers.IntegerField()
    pending_records = serializers.IntegerField()
    records_ahead_ms = serializers.IntegerField(
        help_text="For how long from now the rate in records is used up; 0 when the tenant was quiet."
    )
    bytes_ahead_ms = serializers.IntegerField(help_text="The same of the rate in bytes.")


class LimitsAnswer(Shape):
    """Limits and what they are held against."""

    tenant_id = serializers.CharField()
    limits = LimitsOfTenant()
    usage = UsageOfTenant()


class FailedEvent(Shape):
    """A write that failed, without its records."""

    id = serializers.IntegerField(help_text="`context.failed_event_id` of INGEST_FAILED.")
    table_name = serializers.CharField(help_text="It may have been dropped since. Empty for a restore.")
    first_token = serializers.IntegerField()
    last_token = serializers.IntegerField()
    record_count = serializers.IntegerField()
    attempts = serializers.IntegerField()
    error = serializers.CharField(help_text="The kind of error of the last attempt.")
    reason = serializers.CharField(help_text="Its text, in which `…` stands for what may be of a record.")
    state = serializers.ChoiceField(choices=["failed", "pending", "committed", "discarded", "dropped"])
    accepted_at = serializers.DateTimeField()
    failed_at = serializers.DateTimeField(allow_null=True, help_text="When it was last set aside.")


class FailedEventList(Shape):
    """A page of the tenant's failed writes, in the order of their tokens."""

    tenant_id = serializers.CharField()
    failed_events = FailedEvent(many=True)
    next_cursor = serializers.CharField(allow_null=True, help_text="`cursor` of the next page; null on the last.")


class LagOfTable(Shape):
    """Records of one table that wait."""

    table_name = serializers.CharField()
    pending_events = serializers.IntegerField()
    failed_events = serializers.IntegerField()
    retrying_events = serializers.IntegerField()
    oldest_pending_lag_ms = serializers.IntegerField()


class LagAnswer(Shape):
    """How far visibility lags behind acknowledgement. Events are records."""

    tenant_id = serializers.CharField()
    accepted_events = serializers.IntegerField(help_text="Durable, and waiting for a worker to claim them.")
    claimed_events = serializers.IntegerField(help_text="In a live claim of a worker.")
    failed_events = serializers.IntegerField(help_text="Set aside as failed, until replayed or discarded.")
    pending_events = serializers.IntegerField(help_text="accepted_events + claimed_events.")
    retrying_events = serializers.IntegerField(help_text="Those pending that failed before and are tried again.")
    oldest_pending_lag_ms = serializers.IntegerField(help_text="Age of the oldest pending record; 0 without any.")
    token_lag = serializers.IntegerField(help_text="latest_issued_token - latest_visibility_token.")
    latest_visibility_token = serializers.IntegerField(help_text="The watermark: everything up to it is visible.")
    latest_issued_token = serializers.IntegerField()
    latest_snapshot_id = serializers.IntegerField()
    snapshot_age_ms = serializers.IntegerField()
    tables = LagOfTable(many=True, help_text="Those in which something waits or failed.")


class Health(Shape):
    """The process lives."""

    status = serializers.ChoiceField(choices=["ok"])


class Writes(Shape):
    """Whether ingest takes writes, or answers 503: the service itself is short of room, or is in read-only mode."""

    taken = serializers.BooleanField()
    short_of = serializers.ListField(child=serializers.ChoiceField(choices=[shortage.value for shortage in Shortage]))
    mode = serializers.ChoiceField(choices=ServiceMode.Mode.values)
    server = serializers.ChoiceField(
        choices=[standing.value for standing in Standing],
        help_text="Whether PostgreSQL is the server that the catalog lives on; if not, writes are refused.",
    )


class Ready(Shape):
    """Everything the service depends on answers."""

    status = serializers.ChoiceField(choices=["ready"])
    checks = serializers.DictField(child=serializers.CharField(), help_text="Each dependency: `ok`.")
    writes = Writes()
