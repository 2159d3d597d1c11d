"""Tables over HTTP."""

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.reverse import reverse

from api import paging, serializers
from api.auth import principal_of
from api.models import Role
from api.parsers import control_body
from api.views.base import Endpoint
from catalog.change import parse_change
from catalog.definition import parse_definition
from catalog.evolution import evolve_table
from catalog.schema import schema_json
from catalog.tables import TableInfo, create_table, drop_table, get_table, list_tables
from duckmesh.kernel import clock

_READERS = frozenset({Role.QUERY_READER, Role.TABLE_ADMIN})
_WRITERS = frozenset({Role.TABLE_ADMIN})


def table_info(table: TableInfo) -> dict[str, Any]:
    """The table as callers see it; the last edge before JSON."""
    return {
        "table_id": table.table_id,
        "tenant_id": table.tenant_id,
        "table_name": table.name,
        "schema_version": table.schema.version,
        "schema_json": schema_json(table.schema),
        "primary_key_cols": table.primary_key_cols,
        "partition_spec": table.partition_spec,
        "sort_cols": table.sort_cols,
        "compatibility_mode": table.compatibility_mode,
        "grows": table.grows,
        "created_at": clock.rfc3339(table.created_at),
    }


class Tables(Endpoint):
    """The tables of the key's tenant."""

    required_roles = {"GET": _READERS, "POST": _WRITERS}

    @extend_schema(
        operation_id="list_tables", summary="List tables", parameters=paging.PARAMETERS, responses=serializers.TableList
    )
    def get(self, request: Request) -> Response:
        """A page of the tenant's tables, in the order of their lower-case names."""
        tenant_id, limit = principal_of(request).tenant_id, paging.limit_of(request.GET)
        found = list_tables(tenant_id=tenant_id, after=paging.position_of(request.GET), limit=limit + 1)
        page, more = found[:limit], len(found) > limit
        return Response(
            {
                "tenant_id": tenant_id,
                "tables": [table_info(table) for table in page],
                "next_cursor": paging.cursor_behind(page[-1].name.lower()) if more else None,
            }
        )

    @extend_schema(
        operation_id="create_table",
        summary="Create a table",
        request=serializers.TableBody,
        responses={201: serializers.TableInfo},
    )
    def post(self, request: Request) -> Response:
        """Make a table. It is there, empty, from a new snapshot on."""
        who = principal_of(request)
        definition = parse_definition(control_body(request))
        table = create_table(tenant_id=who.tenant_id, definition=definition, actor=f"key:{who.key_id}")
        where = reverse("table", kwargs={"table": table.name})
        return Response(table_info(table), status=201, headers={"Location": where})


class Table(Endpoint):
    """One table of the key's tenant."""

    required_roles = {"GET": _READERS, "PATCH": _WRITERS, "DELETE": _WRITERS}

    @extend_schema(operation_id="get_table", summary="Describe a table", responses=serializers.TableInfo)
    def get(self, request: Request, table: str) -> Response:
        """The table as it is now."""
        return Response(table_info(get_table(tenant_id=principal_of(request).tenant_id, name=table)))

    @extend_schema(
        operation_id="change_table",
        summary="Change a table's columns",
        request=serializers.TableChange,
        responses=serializers.TableInfo,
    )
    def patch(self, request: Request, table: str) -> Response:
        """Make the next version of the table's schema, in a new snapshot, or change its compatibility mode.

        All that one request asks for is one version, or nothing of it is done: 409 `SCHEMA_INCOMPATIBLE` names the
        reason for each column. A request that changes no column makes no version. Files are not rewritten: older
        snapshots show the old columns, newer ones every row in the new ones. Writes in flight land in the new version.
        """
        who = principal_of(request)
        change = parse_change(control_body(request))
        changed = evolve_table(tenant_id=who.tenant_id, name=table, change=change, actor=f"key:{who.key_id}")
        return Response(table_info(changed))

    @extend_schema(operation_id="drop_table", summary="Drop a table", responses={204: None})
    def delete(self, request: Request, table: str) -> Response:
        """Drop a table. A new snapshot does not have it, older ones still read it, and its name is free."""
        who = principal_of(request)
        drop_table(tenant_id=who.tenant_id, name=table, actor=f"key:{who.key_id}")
        return Response(status=204)
