"""Shapes of what the queries' addresses take and answer."""

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from api.serializers import Shape
from api.snapshot_ids import LARGEST
from query.body import MAX_ROW_LIMIT


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
