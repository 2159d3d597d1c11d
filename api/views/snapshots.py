"""Snapshots over HTTP: listed, shown, compared and restored."""

from typing import Any

from django.conf import settings
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from api import paging
from api import snapshot_serializers as serializers
from api.auth import principal_of
from api.models import Role
from api.parsers import control_body
from api.process import held
from api.restoring import parse_restore, restore
from api.snapshot_ids import id_in_address, id_in_parameter
from api.views.base import Endpoint
from catalog.history import (
    ListedSnapshot,
    ShownSnapshot,
    TableChange,
    diff_snapshots,
    list_snapshots,
    show_snapshot,
)
from catalog.snapshots import SnapshotInfo
from duckmesh.kernel import clock
from duckmesh.kernel.errors import Invalid

_READERS = frozenset({Role.QUERY_READER, Role.TABLE_ADMIN, Role.OPS_ADMIN})


def _common(snapshot: SnapshotInfo, restored_from: int | None, pins: tuple[str, ...]) -> dict[str, Any]:
    return {
        "snapshot_id": snapshot.snapshot_id,
        "parent": snapshot.parent_id,
        "snapshot_time": clock.rfc3339(snapshot.snapshot_time),
        "watermark": snapshot.visible_token,
        "kind": snapshot.kind,
        "created_by": snapshot.created_by,
        "restored_from": restored_from,
        "pins": pins,
    }


def listed_snapshot(listed: ListedSnapshot) -> dict[str, Any]:
    """A line of the list; the last edge before JSON."""
    return {
        **_common(listed.snapshot, listed.restored_from, listed.pins),
        "summary": {
            "tables": listed.tables,
            "added_files": listed.added_files,
            "added_rows": listed.added_rows,
            "removed_files": listed.removed_files,
        },
    }


def table_change(change: TableChange) -> dict[str, Any]:
    """What a snapshot changed of a table; the last edge before JSON."""
    step = change.schema
    return {
        "table_id": change.table_id,
        "table_name": change.name,
        "change": change.change,
        "schema": step
        and {"from_version": step.from_version, "to_version": step.to_version, "columns": list(step.columns)},
        "added_files": change.added.files,
        "added_rows": change.added.rows,
        "added_bytes": change.added.size_bytes,
        "removed_files": change.removed.files,
        "removed_rows": change.removed.rows,
        "removed_bytes": change.removed.size_bytes,
    }


def shown_snapshot(shown: ShownSnapshot) -> dict[str, Any]:
    """A snapshot by itself; the last edge before JSON."""
    return {
        **_common(shown.snapshot, shown.restored_from, shown.pins),
        "tables": [
            {
                "table_id": table.table_id,
                "table_name": table.name,
                "schema_version": table.schema_version,
                "files": table.files,
                "rows": table.rows,
                "bytes": table.size_bytes,
            }
            for table in shown.tables
        ],
        "files": sum(table.files for table in shown.tables),
        "rows": sum(table.rows for table in shown.tables),
        "bytes": sum(table.size_bytes for table in shown.tables),
        "summary": {"tables": [table_change(change) for change in shown.changes]},
    }


def _before(position: str) -> int | None:
    if not position:
        return None
    if not (position.isascii() and position.isdecimal() and len(position) < 19):
        raise Invalid("cursor must be the next_cursor of an earlier page.")
    return int(position)


class Snapshots(Endpoint):
    """The snapshots of the key's tenant."""

    required_roles = {"GET": _READERS}

    @extend_schema(
        operation_id="list_snapshots",
        summary="List snapshots",
        parameters=paging.PARAMETERS,
        responses=serializers.SnapshotList,
    )
    def get(self, request: Request) -> Response:
        """A page of the snapshots that have not expired, the newest first."""
        tenant_id, limit = principal_of(request).tenant_id, paging.limit_of(request.GET)
        before = _before(paging.position_of(request.GET))
        found = list_snapshots(tenant_id=tenant_id, before=before, limit=limit + 1)
        page, more = found[:limit], len(found) > limit
        return Response(
            {
                "tenant_id": tenant_id,
                "snapshots": [listed_snapshot(each) for each in page],
                "next_cursor": paging.cursor_behind(str(page[-1].snapshot.snapshot_id)) if more else None,
            }
        )


class OneSnapshot(Endpoint):
    """One snapshot of the key's tenant."""

    required_roles = {"GET": _READERS}

    @extend_schema(operation_id="get_snapshot", summary="Describe a snapshot", responses=serializers.Snapshot)
    def get(self, request: Request, id: str) -> Response:
        """What the snapshot consists of, and what it changed of the one before it.

        404 `SNAPSHOT_NOT_FOUND` if it never was, 410 `SNAPSHOT_EXPIRED` if retention dropped it.
        """
        shown = show_snapshot(tenant_id=principal_of(request).tenant_id, snapshot_id=id_in_address(id))
        return Response(shown_snapshot(shown))


class SnapshotDiff(Endpoint):
    """What lies between two snapshots."""

    required_roles = {"GET": _READERS}

    @extend_schema(
        operation_id="diff_snapshots",
        summary="Compare two snapshots",
        parameters=[OpenApiParameter("to", int, required=True, description="The other snapshot, older or newer.")],
        responses=serializers.SnapshotDiff,
    )
    def get(self, request: Request, id: str) -> Response:
        """What makes the snapshot the one that `to` names, table by table; tables that are alike are left out."""
        from_id, to_id = id_in_address(id), id_in_parameter("to", request.GET.get("to", ""))
        changes = diff_snapshots(tenant_id=principal_of(request).tenant_id, from_id=from_id, to_id=to_id)
        return Response(
            {"from_snapshot_id": from_id, "to_snapshot_id": to_id, "tables": [table_change(each) for each in changes]}
        )


class Restore(Endpoint):
    """The contents of an older snapshot, again."""

    required_roles = {"POST": frozenset({Role.OPS_ADMIN})}

    @extend_schema(
        operation_id="restore_snapshot",
        summary="Restore a snapshot",
        request=serializers.RestoreBody,
        responses={200: serializers.RestoreAnswer, 202: serializers.RestoreAnswer},
    )
    def post(self, request: Request) -> Response:
        """Make a **new** snapshot with the tables, columns and files of this one. Every older snapshot stays.

        A restore has a token and comes in the order of tokens: it replaces every write accepted before it, and those
        accepted after it come after it. Idempotency keys stay used. 200 with the new snapshot, or, if the request does
        not wait, 202; a wait that runs out answers 504 `CONSISTENCY_TIMEOUT` whose context says that the restore **is**
        accepted, with its token. See docs/snapshots.md.
        """
        who = principal_of(request)
        asked = parse_restore(control_body(request), longest=settings.DUCKMESH.max_visibility_timeout)
        restored = restore(asked, tenant_id=who.tenant_id, actor=f"key:{who.key_id}", held=held())
        return Response(
            {
                "status": "accepted" if restored.snapshot_id is None else "visible",
                "snapshot_id": restored.snapshot_id,
                "restored_from": asked.snapshot_id,
                "max_visibility_token": restored.token,
            },
            status=202 if restored.snapshot_id is None else 200,
        )
