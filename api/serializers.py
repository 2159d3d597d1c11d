"""The shapes of bodies and answers, for the OpenAPI document.

The planes that take the bodies check them (`catalog.definition`, `ingest.decode`, `query.body`): strictly, without a
conversion, and naming every problem at once. What they refuse, these serializers need not refuse a second time.
"""

from typing import Any

from drf_spectacular.utils import extend_schema_field, inline_serializer
from rest_framework import serializers

from api.snapshot_ids import LARGEST
from catalog.definition import MODES
from catalog.models import ServiceMode
from catalog.schema import TYPE_NAMES
from catalog.server import Standing
from ingest.guard import Shortage
from query.body import MAX_ROW_LIMIT

NAME = r"^[A-Za-z_][A-Za-z0-9_]{0,62}$"


# `Any`: a serializer's type parameter is the object it would be filled from; these are never filled.
class Shape(serializers.Serializer[Any]):
    """A JSON object."""


# Not a class: a member named `context` would hide the serializer's own.
PROBLEM = inline_serializer(
    "Problem",
    {
        "type": serializers.CharField(),
        "title": serializers.CharField(),
        "status": serializers.IntegerField(),
        "detail": serializers.CharField(),
        "error_code": serializers.CharField(help_text="Stable; docs/errors.md lists them all."),
        "message": serializers.CharField(help_text="The same text as `detail`."),
        "retryable": serializers.BooleanField(help_text="The same request may succeed later."),
        "context": serializers.DictField(help_text="Data about the error."),
        "trace_id": serializers.CharField(help_text="Names the request in the operator's logs."),
    },
)


class Column(Shape):
    """A column of a table."""

    name = serializers.RegexField(NAME)
    type = serializers.CharField(help_text="One of: " + ", ".join(TYPE_NAMES))
    nullable = serializers.BooleanField(default=True)


class SchemaJson(Shape):
    """The columns of a table, in order."""

    columns = Column(many=True)


@extend_schema_field(
    {
        "type": "object",
        "properties": {
            "fields": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "column": {"type": "string", "description": "One of primary_key_cols, if there are any."},
                        "transform": {"type": "string", "description": "identity, month, day, hour or bucket[N]"},
                    },
                    "required": ["column", "transform"],
                },
            }
        },
        "additionalProperties": False,
    }
)
class PartitionSpec(serializers.JSONField):
    """How the files of a table are divided."""


class TableBody(Shape):
    """A table to be made. Unknown members are refused by name."""

    table_name = serializers.RegexField(NAME, help_text="Names compare without case.")
    schema_json = SchemaJson(
        required=False,
        help_text="Without it the table has no columns yet and grows: each write adds a column for each new field.",
    )
    primary_key_cols = serializers.ListField(
        child=serializers.CharField(), required=False, help_text="Like partition_spec and sort_cols, needs schema_json."
    )
    partition_spec = PartitionSpec(required=False)
    sort_cols = serializers.ListField(child=serializers.CharField(), required=False)
    compatibility_mode = serializers.ChoiceField(choices=MODES, default="backward")


class TableChange(Shape):
    """What is to change of a table. Columns are named as before the change; unknown members are refused by name."""

    add = Column(many=True, required=False, help_text="New columns, which must be nullable.")
    widen = serializers.DictField(
        child=serializers.CharField(),
        required=False,
        help_text="Columns to their new types, which must hold every value of the old ones: int32 as int64, float64 or "
        "decimal(p,s) with p-s >= 10; int64 as decimal(p,s) with p-s >= 19; float32 as float64; a decimal as one with "
        "no fewer digits before and after the point; list<T> as list<U> where T may be U. In mode none also as json.",
    )
    rename = serializers.DictField(
        child=serializers.RegexField(NAME), required=False, help_text="Columns to their new names; two may swap theirs."
    )
    drop = serializers.ListField(
        child=serializers.CharField(),
        required=False,
        help_text="Columns to go, none of which key, partitions or sort order need. Their names are free at once.",
    )
    schema_json = SchemaJson(
        required=False,
        help_text="Instead of the four: all columns that the table is to have, matched by name. Others are dropped, "
        "new ones added, types widened.",
    )
    compatibility_mode = serializers.ChoiceField(
        choices=MODES,
        required=False,
        help_text="The table's mode from now on; this change is held to it. backward: add, widen, rename, drop, make "
        "nullable. forward and full: add, and drop what is nullable. none: as backward, and anything may become json.",
    )


class TableInfo(Shape):
    """A table as it is now."""

    table_id = serializers.IntegerField()
    tenant_id = serializers.CharField()
    table_name = serializers.CharField()
    schema_version = serializers.IntegerField()
    schema_json = SchemaJson()
    primary_key_cols = serializers.ListField(child=serializers.CharField())
    partition_spec = PartitionSpec()
    sort_cols = serializers.ListField(child=serializers.CharField())
    compatibility_mode = serializers.ChoiceField(choices=MODES)
    grows = serializers.BooleanField(help_text="Whether writes add columns and widen them.")
    created_at = serializers.DateTimeField()


class TableList(Shape):
    """A page of the tenant's tables, in the order of their names without case."""

    tenant_id = serializers.CharField()
    tables = TableInfo(many=True)
    next_cursor = serializers.CharField(allow_null=True, help_text="`cursor` of the next page; null on the last.")


class IngestRecord(Shape):
    """One record."""

    idempotency_key = serializers.CharField(
        required=False, allow_null=True, help_text="Written once per table within the window."
    )
    op = serializers.ChoiceField(choices=["insert", "upsert", "delete"], default="insert")
    payload = serializers.DictField(help_text="Column names to values.")
    event_time = serializers.DateTimeField(required=False, allow_null=True)


class IngestBody(Shape):
    """Records, all of which are accepted or none."""

    records = IngestRecord(many=True)
    wait_for_visibility = serializers.BooleanField(default=False)
    visibility_timeout_ms = serializers.IntegerField(default=5_000)


class IngestAnswer(Shape):
    """What is durable now, whatever crashes."""

    accepted_count = serializers.IntegerField(help_text="Without duplicates.")
    duplicate_count = serializers.IntegerField()
    max_visibility_token = serializers.IntegerField(help_text="Covers the first write of every duplicate too.")
    status = serializers.ChoiceField(choices=["accepted", "visible", "partial_duplicate"])
    visible_snapshot_id = serializers.IntegerField(
        allow_null=True, help_text="A snapshot that holds the records, if the request waited for one."
    )


@extend_schema_field({"oneOf": [{"type": "array", "items": {}}, {"type": "object", "additionalProperties": {}}]})
class Parameters(serializers.JSONField):
    """An array for `?`, an object for `$name`."""


class QueryBody(Shape):
    """One statement, and the snapshot it is read in. Unknown members are refused by name; null stands for absent."""

    sql = serializers.CharField(help_text="One read-only statement.")
    params = Parameters(required=False, help_text="Values: an array for `?`, an object for `$name`.")
    snapshot_id = serializers.IntegerField(
        required=False,
        min_value=0,
        max_value=LARGEST,
        help_text="Read this snapshot. Not together with `snapshot_time`.",
    )
    snapshot_time = serializers.DateTimeField(
        required=False, help_text="Read the snapshot that was the latest at this time; RFC 3339 with an offset."
    )
    min_visibility_token = serializers.IntegerField(
        required=False,
        min_value=0,
        help_text="Wait until every write acknowledged with a token up to this one is visible, or answer an error.",
    )
    consistency_timeout_ms = serializers.IntegerField(
        default=5_000, min_value=0, help_text="Longest wait for the token."
    )
    timeout_ms = serializers.IntegerField(default=30_000, min_value=1, help_text="Longest time the statement may run.")
    row_limit = serializers.IntegerField(
        required=False,
        min_value=1,
        max_value=MAX_ROW_LIMIT,
        help_text="Most rows in the answer; beyond it, `truncated`. In JSON 10,000 if absent, else no limit.",
    )
    explain = serializers.BooleanField(
        default=False, help_text="Do not run the statement; answer its plan as text, in `plan` instead of rows."
    )


class QueryStats(Shape):
    """What the query cost."""

    duration_ms = serializers.FloatField()
    queue_ms = serializers.FloatField()
    barrier_ms = serializers.FloatField()
    scanned_files = serializers.IntegerField()
    pruned_files = serializers.IntegerField()
    scanned_bytes = serializers.IntegerField()
    cache_hit_bytes = serializers.IntegerField()


class QueryAnswer(Shape):
    """Rows of one snapshot. A 64-bit integer is a number with every digit, a decimal a string, NaN a string."""

    columns = serializers.ListField(child=serializers.CharField(), required=False)
    column_types = serializers.ListField(child=serializers.CharField(), required=False)
    rows = serializers.ListField(child=serializers.ListField(), required=False)
    plan = serializers.CharField(required=False, help_text="With `explain`, in place of `columns` to `rows`.")
    snapshot_id = serializers.IntegerField()
    snapshot_time = serializers.DateTimeField()
    max_visibility_token = serializers.IntegerField()
    truncated = serializers.BooleanField()
    stats = QueryStats()


class DescribedColumn(Shape):
    """A column of a table that can be queried."""

    name = serializers.CharField()
    type = serializers.CharField(help_text="As tables are defined with.")
    sql_type = serializers.CharField(help_text="As statements see it.")
    nullable = serializers.BooleanField()


class DescribedTable(Shape):
    """A table as it stands in the snapshot."""

    table_name = serializers.CharField()
    schema_version = serializers.IntegerField()
    primary_key_cols = serializers.ListField(child=serializers.CharField())
    columns = DescribedColumn(many=True)
    row_count = serializers.IntegerField(allow_null=True, help_text="Exact, or null.")
    row_count_reason = serializers.CharField(allow_null=True, help_text="Why there is no row count.")
    sample_rows = serializers.ListField(
        child=serializers.ListField(),
        required=False,
        allow_null=True,
        help_text="At most five rows, as `POST /v1/query` shows them. Absent with `samples=0`.",
    )
    sample_rows_reason = serializers.CharField(required=False, allow_null=True, help_text="Why there are no rows.")


class QuerySchema(Shape):
    """A page of the tables of the latest snapshot, in the order of their names without case."""

    tenant_id = serializers.CharField()
    snapshot_id = serializers.IntegerField()
    snapshot_time = serializers.DateTimeField()
    max_visibility_token = serializers.IntegerField()
    tables = DescribedTable(many=True)
    next_cursor = serializers.CharField(allow_null=True, help_text="`cursor` of the next page; null on the last.")


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


class PastQuery(Shape):
    """A query that has ended."""

    query_id = serializers.CharField(allow_null=True, help_text="`X-DuckMesh-Query-Id` of its answer.")
    key_id = serializers.CharField(help_text="The API key that asked.")
    at = serializers.DateTimeField(help_text="When it arrived.")
    sql_hash = serializers.CharField(help_text="SHA-256 of the statement, in hexadecimal digits.")
    sql = serializers.CharField(allow_null=True, help_text="The statement, if the operator lets statements be kept.")
    outcome = serializers.CharField(help_text="`ok`, or the code of the error it was answered with.")
    snapshot_id = serializers.IntegerField(allow_null=True, help_text="Null if it did not come to read one.")
    duration_ms = serializers.FloatField(help_text="From its arrival to its end, waits included.")
    row_count = serializers.IntegerField()
    size_bytes = serializers.IntegerField(help_text="Of its answer.")


class QueryHistory(Shape):
    """A page of the tenant's queries, the newest first."""

    tenant_id = serializers.CharField()
    queries = PastQuery(many=True)
    next_cursor = serializers.CharField(allow_null=True, help_text="`cursor` of the next page; null on the last.")


class RunningQuery(Shape):
    """A query that has not ended."""

    query_id = serializers.CharField()
    key_id = serializers.CharField(help_text="The API key that asked.")
    sql_hash = serializers.CharField(help_text="SHA-256 of the statement, in hexadecimal digits.")
    sql = serializers.CharField(allow_null=True, help_text="The statement, if the operator lets statements be kept.")
    running_ms = serializers.IntegerField(help_text="Since its arrival, waits included.")
    state = serializers.ChoiceField(choices=["running", "cancelling"])


class RunningQueryList(Shape):
    """The tenant's queries that run."""

    tenant_id = serializers.CharField()
    queries = RunningQuery(many=True)


class CancelledQuery(Shape):
    """A query that is being stopped."""

    query_id = serializers.CharField()
    state = serializers.ChoiceField(choices=["cancelling"])


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
