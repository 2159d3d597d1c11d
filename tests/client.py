"""A small HTTP client for tests, for any number of threads, that records what it did and saw."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self
from urllib.parse import urlsplit

import urllib3

from tests.history import Ack, Answer, Recorder, Sent

COLUMNS: Sequence[Mapping[str, object]] = [{"name": "id", "type": "string"}, {"name": "n", "type": "int64"}]


class Refused(Exception):
    """The answer says by name that nothing was done."""

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        super().__init__(f"{status} {problem.get('error_code')}: {problem.get('message')}")
        self.status = status
        self.code = str(problem.get("error_code"))
        self.context: Mapping[str, Any] = problem.get("context", {})


class Lost(Exception):
    """No answer came, or one that does not say what happened."""

    def __init__(self, reason: str, *, status: int | None = None) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True, kw_only=True)
class Reply:
    """One response, its body read whole."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON; its shape is the caller's to know."""
        return json.loads(self.body) if self.body else {}


class Client:
    """One tenant's key, connections that are kept alive, and the recorder of a history.

    Records are known by their identity, the column `id` of the tables that `create_table` makes.
    """

    def __init__(self, *, base_url: str, key: str, tenant: str, recorder: Recorder, timeout: float = 30) -> None:
        address = urlsplit(base_url)
        self._pool = urllib3.HTTPConnectionPool(
            address.hostname or "", address.port, maxsize=64, timeout=urllib3.Timeout(total=timeout), retries=False
        )
        self._headers = {"Authorization": f"Bearer {key}"}
        self._tenant = tenant
        self._recorder = recorder

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.close()

    def call(
        self, method: str, path: str, document: object = None, *, headers: Mapping[str, str] | None = None
    ) -> Reply:
        """The answer to one request that is not recorded; `document` is sent as JSON, bytes as they are."""
        sent = {**self._headers, **(headers or {})}
        body = document if isinstance(document, bytes) or document is None else json.dumps(document).encode()
        if body is not None:
            sent.setdefault("Content-Type", "application/json")
        response = self._pool.request(method, path, body=body, headers=sent)
        return Reply(status=response.status, headers=response.headers, body=response.data)

    def get(self, path: str) -> Any:
        """The JSON of a 200; its shape is the caller's to know."""
        return _expected(self.call("GET", path))

    def create_table(self, name: str, *, columns: Sequence[Mapping[str, object]] = COLUMNS) -> None:
        """A new table of these columns."""
        definition = {"table_name": name, "schema_json": {"columns": list(columns)}}
        _expected(self.call("POST", "/v1/tables", definition))

    def drop_table(self, name: str) -> None:
        """The table is gone."""
        begun = self._recorder.began_drop(tenant=self._tenant, table=name)
        with self._recorded(begun):
            _expected(self.call("DELETE", f"/v1/tables/{name}"))
            self._recorder.dropped(begun)

    def ingest(
        self, table: str, *identities: str, keyed: bool = True, request_key: str | None = None, wait: bool = False
    ) -> Ack:
        """One record for each identity, in one request. Its key is the identity, or the request's covers them all."""
        if request_key is not None:
            sent = [Sent(identity=identity, key=f"{request_key}/{n}") for n, identity in enumerate(identities)]
        else:
            sent = [Sent(identity=identity, key=identity if keyed else None) for identity in identities]
        own_keys = keyed and request_key is None
        records = [
            {"payload": {"id": record.identity, "n": n}, **({"idempotency_key": record.key} if own_keys else {})}
            for n, record in enumerate(sent)
        ]
        document = {"records": records, "wait_for_visibility": wait, "visibility_timeout_ms": 20_000}
        headers = {} if request_key is None else {"Idempotency-Key": request_key}
        return self.send(table, document, sent=sent, headers=headers)

    def send(
        self, table: str, document: object, *, sent: Sequence[Sent], headers: Mapping[str, str] | None = None
    ) -> Ack:
        """One request to write, with whatever body; it is recorded as these records."""
        begun = self._recorder.began_ingest(tenant=self._tenant, table=table, records=sent)
        with self._recorded(begun):
            ack = _ack(self.call("POST", f"/v1/ingest/{table}", document, headers=headers))
            self._recorder.acknowledged(begun, ack)
        return ack

    def read(
        self, *tables: str, min_token: int | None = None, snapshot_id: int | None = None, seconds: float = 20
    ) -> Answer:
        """How often each identity is in these tables, at the latest snapshot or the one that is asked for."""
        statement = " UNION ALL ".join(f"SELECT '{table}' AS t, id FROM {table}" for table in tables)
        document: dict[str, object] = {
            "sql": f"SELECT t, id, count(*) FROM ({statement}) GROUP BY ALL",
            "row_limit": 1_000_000,
            "consistency_timeout_ms": int(seconds * 1_000),
        }
        if min_token is not None:
            document["min_visibility_token"] = min_token
        if snapshot_id is not None:
            document["snapshot_id"] = snapshot_id
        begun = self._recorder.began_read(tenant=self._tenant, min_token=min_token, asked_snapshot=snapshot_id)
        with self._recorded(begun):
            answer = _answer(tables, _expected(self.call("POST", "/v1/query", document)))
            self._recorder.answered(begun, answer)
        return answer

    @contextmanager
    def _recorded(self, begun: int) -> Iterator[None]:
        """What the block raises is recorded: a refusal, or that nobody knows. Broken connections become `Lost`."""
        try:
            yield
        except Refused as exc:
            self._recorder.refused(begun, str(exc))
            raise
        except (Lost, urllib3.exceptions.HTTPError) as exc:
            self._recorder.unknown(begun, str(exc))
            raise exc if isinstance(exc, Lost) else Lost(str(exc)) from exc


def _expected(reply: Reply) -> Any:
    """The body as JSON, its shape the caller's to know; `Refused` by a 4xx, `Lost` by a 5xx."""
    document = reply.json()
    if reply.status < 300:
        return document
    if reply.status < 500:
        raise Refused(reply.status, document)
    raise Lost(f"{reply.status} {document.get('error_code')}: {document.get('message')}", status=reply.status)


def _ack(reply: Reply) -> Ack:
    document = reply.json()
    if reply.status != 200 and document.get("context", {}).get("accepted"):
        document = document["context"]  # the wait ended badly, the write did not
    else:
        document = _expected(reply)
    return Ack(
        token=document["max_visibility_token"],
        accepted=document["accepted_count"],
        duplicates=document["duplicate_count"],
        visible_in=document.get("visible_snapshot_id"),
        replayed=reply.headers.get("Idempotency-Replayed") == "true",
    )


def _answer(tables: Sequence[str], document: Mapping[str, Any]) -> Answer:
    assert not document["truncated"]
    rows: dict[str, Counter[str]] = {table: Counter() for table in tables}
    for table, identity, count in document["rows"]:
        rows[table][identity] += count
    return Answer(
        snapshot_id=document["snapshot_id"],
        watermark=document["max_visibility_token"],
        snapshot_time=datetime.fromisoformat(document["snapshot_time"]),
        rows=rows,
    )
