"""A client of one tenant that holds every answer against CONTRACT.md, section 2, as it goes."""

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from duckmesh.devstack.http import Answer, Api

_numbers = itertools.count(1)

Record = Mapping[str, object]


def new_name(prefix: str = "t") -> str:
    """A table's name that no other test has."""
    return f"{prefix}_{next(_numbers)}"


def problem_of(answer: Answer, status: int, code: str) -> dict[str, Any]:
    """The problem document, which has every member of the contract, and this status and code."""
    assert answer.headers["content-type"] == "application/problem+json", answer.body[:500]
    problem: dict[str, Any] = answer.json()
    assert (answer.status, problem["error_code"]) == (status, code), problem
    assert problem["status"] == status
    assert problem["detail"] == problem["message"] != ""
    assert problem["title"]
    assert problem["type"]
    assert isinstance(problem["retryable"], bool)
    assert isinstance(problem["context"], dict)
    assert re.fullmatch("[0-9a-f]{32}", problem["trace_id"])
    assert answer.headers["x-request-id"]
    assert ("retry-after" in answer.headers) == (status in (429, 503))
    for word in (b"Traceback", b'File "', b"postgresql://", b".py", b".parquet", b"ingest_event"):
        assert word not in answer.body
    return problem


class Caller:
    """A key of a tenant, and a connection that is kept alive."""

    def __init__(self, base_url: str, key: str | None) -> None:
        self._api = Api(base_url, key)

    def call(self, method: str, path: str, document: object = None, headers: Mapping[str, str] | None = None) -> Answer:
        """The answer to one request; `document` is sent as JSON, bytes as they are."""
        return self._api.call(method, path, document, headers=headers)

    def create(
        self, columns: Mapping[str, str], *, name: str = "", required: Sequence[str] = (), **members: Any
    ) -> str:
        """The name of a new table of these columns; those of `required` are not nullable."""
        name = name or new_name()
        listed = [{"name": c, "type": kind, "nullable": c not in required} for c, kind in columns.items()]
        answer = self.call("POST", "/v1/tables", {"table_name": name, "schema_json": {"columns": listed}, **members})
        assert answer.status == 201, answer.body
        return name

    def send(self, table: str, body: object, *, headers: Mapping[str, str] | None = None, query: str = "") -> Answer:
        """The answer to a body for the table; bytes go as they are."""
        return self.call("POST", f"/v1/ingest/{table}{query}", body, headers)

    def ingest(
        self, table: str, *records: Record, wait: bool = False, headers: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """The 200 that acknowledges the records."""
        members = {"wait_for_visibility": True, "visibility_timeout_ms": 20_000} if wait else {}
        answer = self.send(table, {"records": list(records), **members}, headers=headers)
        assert answer.status == 200, answer.body
        acknowledged: dict[str, Any] = answer.json()
        return acknowledged

    def query(self, sql: str, **members: object) -> dict[str, Any]:
        """The document of a 200."""
        answer = self.call("POST", "/v1/query", {"sql": sql, **members})
        assert answer.status == 200, answer.body
        document: dict[str, Any] = answer.json()
        return document

    def rows(self, sql: str, **members: object) -> list[list[Any]]:
        """The rows of a 200."""
        rows: list[list[Any]] = self.query(sql, **members)["rows"]
        return rows

    def refused(self, status: int, code: str, sql: str, **members: object) -> dict[str, Any]:
        """The problem that answers the statement."""
        return problem_of(self.call("POST", "/v1/query", {"sql": sql, **members}), status, code)

    def close(self) -> None:
        """The connection is closed."""
        self._api.close()
