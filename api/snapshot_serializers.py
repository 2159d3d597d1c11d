"""Shapes of what the snapshots' addresses take and answer."""

from rest_framework import serializers

from api.serializers import Shape
from api.snapshot_ids import LARGEST


class SnapshotChange(Shape):
    """What of the tables' files a snapshot changed."""

    tables = serializers.ListField(child=serializers.CharField(), help_text="Those whose files it changed.")
    added_files = serializers.IntegerField()
    added_rows = serializers.IntegerField()
    removed_files = serializers.IntegerField()


class SnapshotFacts(Shape):
    """What a snapshot is."""

    snapshot_id = serializers.IntegerField()
    # REST framework takes declared fields off the class, so that nothing meets its own attribute of this name.
    parent = serializers.IntegerField(  # type: ignore[assignment]
        allow_null=True, help_text="The snapshot before it, which may have expired."
    )
    snapshot_time = serializers.DateTimeField(help_text="Since when it was the latest.")
    watermark = serializers.IntegerField(help_text="Every write with a token up to this one is in it, or failed.")
    kind = serializers.ChoiceField(choices=["create", "ingest", "ddl", "compaction", "restore"])
    created_by = serializers.CharField()
    restored_from = serializers.IntegerField(allow_null=True, help_text="Whose contents a restore brought back.")
    pins = serializers.ListField(child=serializers.CharField(), help_text="The pins that hold it.")


class ListedSnapshot(SnapshotFacts):
    """A snapshot among others."""

    summary = SnapshotChange()


class SnapshotList(Shape):
    """A page of the tenant's snapshots, the newest first."""

    tenant_id = serializers.CharField()
    snapshots = ListedSnapshot(many=True)
    next_cursor = serializers.CharField(allow_null=True, help_text="`cursor` of the next page; null on the last.")


class TableOfSnapshot(Shape):
    """What a table consists of in the snapshot."""

    table_id = serializers.IntegerField()
    table_name = serializers.CharField()
    schema_version = serializers.IntegerField()
    files = serializers.IntegerField()
    rows = serializers.IntegerField(help_text="Stored rows; of a table with a primary key also those not yet folded.")
    bytes = serializers.IntegerField()


class ColumnChange(Shape):
    """How a column differs between two versions of a schema."""

    change = serializers.ChoiceField(choices=["added", "dropped", "renamed", "retyped", "nullable", "not_nullable"])
    column = serializers.CharField(help_text="Its name afterwards, or before it was dropped.")
    type = serializers.CharField(required=False, help_text="Where added, dropped or retyped.")
    was = serializers.CharField(required=False, help_text="The name or type before.")


class SchemaStep(Shape):
    """How a schema differs between two snapshots."""

    from_version = serializers.IntegerField()
    to_version = serializers.IntegerField()
    columns = ColumnChange(many=True)


class TableDifference(Shape):
    """How a table differs between two snapshots."""

    table_id = serializers.IntegerField(help_text="Two tables of one name have two.")
    table_name = serializers.CharField()
    change = serializers.ChoiceField(choices=["created", "dropped", "changed"])
    schema = SchemaStep(allow_null=True, help_text="Null where the version is the same, or the table is in one only.")
    added_files = serializers.IntegerField()
    added_rows = serializers.IntegerField()
    added_bytes = serializers.IntegerField()
    removed_files = serializers.IntegerField()
    removed_rows = serializers.IntegerField()
    removed_bytes = serializers.IntegerField()


class SnapshotTables(Shape):
    """What a snapshot changed of the one before it."""

    tables = TableDifference(many=True)


class Snapshot(SnapshotFacts):
    """A snapshot and what it consists of."""

    tables = TableOfSnapshot(many=True)
    files = serializers.IntegerField(help_text="Of all tables.")
    rows = serializers.IntegerField()
    bytes = serializers.IntegerField()
    summary = SnapshotTables()


class SnapshotDiff(Shape):
    """What makes the one snapshot the other; tables that are alike in both are left out."""

    from_snapshot_id = serializers.IntegerField()
    to_snapshot_id = serializers.IntegerField()
    tables = TableDifference(many=True)


class PinBody(Shape):
    """A hold on a snapshot."""

    snapshot_id = serializers.IntegerField(min_value=0, max_value=LARGEST)
    name = serializers.RegexField(r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}$")
    expires_at = serializers.DateTimeField(
        required=False, allow_null=True, help_text="When the pin ceases to hold; without it, when it is removed."
    )


class Pin(Shape):
    """A pin that holds a snapshot."""

    name = serializers.CharField()
    snapshot_id = serializers.IntegerField()
    created_at = serializers.DateTimeField()
    created_by = serializers.CharField()
    expires_at = serializers.DateTimeField(allow_null=True)


class PinList(Shape):
    """A page of the tenant's pins, in the order of their names."""

    tenant_id = serializers.CharField()
    pins = Pin(many=True)
    next_cursor = serializers.CharField(allow_null=True, help_text="`cursor` of the next page; null on the last.")


class RestoreBody(Shape):
    """Which snapshot to restore."""

    snapshot_id = serializers.IntegerField(min_value=0, max_value=LARGEST)
    wait_for_visibility = serializers.BooleanField(default=True)
    visibility_timeout_ms = serializers.IntegerField(default=5_000, min_value=0)


class RestoreAnswer(Shape):
    """A restore that is durable, whatever crashes."""

    status = serializers.ChoiceField(choices=["visible", "accepted"])
    snapshot_id = serializers.IntegerField(allow_null=True, help_text="The new snapshot; null until it is applied.")
    restored_from = serializers.IntegerField()
    max_visibility_token = serializers.IntegerField(
        help_text="With this `min_visibility_token` a query sees what was restored."
    )
