"""The shapes of bodies and answers, for the OpenAPI document: what they have in common, tables and writes.

The planes that take the bodies check them (`catalog.definition`, `ingest.decode`, `query.body`): strictly, without a
conversion, and naming every problem at once. What they refuse, these serializers need not refuse a second time.
"""

from typing import Any

from drf_spectacular.utils import extend_schema_field, inline_serializer
from rest_framework import serializers

from catalog.definition import MODES
from catalog.schema import TYPE_NAMES

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
