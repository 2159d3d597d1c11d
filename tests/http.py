"""What tests of the API share: keys, headers, and the one shape of its errors."""

import json
from typing import Any

from django.http import HttpResponse

from api.keys import create_api_key

MEMBERS = {"type", "title", "status", "detail", "error_code", "message", "retryable", "context", "trace_id"}
ALL_ROLES = ("ingest_writer", "query_reader", "table_admin", "ops_admin")


def make_key(tenant_id: str, *roles: str) -> str:
    """The text of a new key of the tenant; without roles named, it has them all."""
    return create_api_key(tenant_id=tenant_id, name="test", roles=roles or ALL_ROLES, actor="test").api_key


def bearer(key: str) -> dict[str, str]:
    """The header that carries the key."""
    return {"Authorization": f"Bearer {key}"}


def problem_of(response: HttpResponse, status: int, code: str) -> dict[str, Any]:
    """The problem in the response, which must have this status and code and the shape that CONTRACT fixes."""
    assert response.status_code == status, response.content
    assert response["Content-Type"] == "application/problem+json"
    problem: dict[str, Any] = json.loads(response.content)
    assert set(problem) == MEMBERS
    assert problem["error_code"] == code
    assert problem["status"] == status
    assert problem["message"] == problem["detail"]
    assert isinstance(problem["retryable"], bool)
    assert isinstance(problem["context"], dict)
    assert len(problem["trace_id"]) == 32
    assert response["X-Request-ID"]
    assert ("Retry-After" in response) == (status in (429, 503))
    return problem
