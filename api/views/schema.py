"""What there is to query, over HTTP."""

from typing import Any

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from api import paging
from api import query_serializers as serializers
from api.auth import principal_of
from api.models import Role
from api.process import held
from api.views.base import Endpoint
from catalog.schema import duckdb_type
from duckmesh.kernel import clock
from duckmesh.kernel.errors import Invalid
from query.described import UNCOUNTED, DescribedTable, describe

LARGEST_PAGE = 50


def described_table(found: DescribedTable) -> dict[str, Any]:
    """The table as callers see it; the last edge before JSON."""
    table, sample = found.table, found.sample
    shown = {
        "table_name": table.name,
        "schema_version": table.schema.version,
        "primary_key_cols": table.primary_key_cols,
        "columns": [
            {
                "name": column.name,
                "type": column.type,
                "sql_type": duckdb_type(column.type),
                "nullable": column.nullable,
            }
            for column in table.schema.columns
        ],
        "row_count": found.row_count,
        "row_count_reason": UNCOUNTED if found.row_count is None else None,
    }
    if sample is not None:
        shown |= {"sample_rows": sample.rows, "sample_rows_reason": sample.reason or None}
    return shown


class QuerySchema(Endpoint):
    """The tables that a statement may read."""

    required_roles = {"GET": frozenset({Role.QUERY_READER})}

    @extend_schema(
        operation_id="query_schema",
        summary="Describe what can be queried",
        parameters=[
            *paging.PARAMETERS,
            OpenApiParameter(
                "samples", {"type": "integer", "enum": [0, 1], "default": 1}, description="0 leaves out sample rows."
            ),
        ],
        responses=serializers.QuerySchema,
    )
    def get(self, request: Request) -> Response:
        """Tables, columns, types, row counts and up to five rows of each table, in the latest snapshot.

        At most 50 tables a page. Which rows are shown is not said; they are read as a query reads them. A row count
        is exact or null, and then `row_count_reason` says why.
        """
        tenant_id = principal_of(request).tenant_id
        limit = min(paging.limit_of(request.GET), LARGEST_PAGE)
        wanted = request.GET.get("samples", "1")
        if wanted not in ("0", "1"):
            raise Invalid("samples must be 0 or 1.", samples=wanted[:100])
        page = describe(
            tenant_id=tenant_id,
            plane=held().query,
            after=paging.position_of(request.GET),
            limit=limit,
            samples=wanted == "1",
        )
        return Response(
            {
                "tenant_id": tenant_id,
                "snapshot_id": page.snapshot.snapshot_id,
                "snapshot_time": clock.rfc3339(page.snapshot.snapshot_time),
                "max_visibility_token": page.snapshot.visible_token,
                "tables": [described_table(found) for found in page.tables],
                "next_cursor": paging.cursor_behind(page.tables[-1].table.name.lower()) if page.more else None,
            }
        )
