"""How the demo sends: several connections, each request retried until it is answered, which its keys make safe."""

import http.client
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa

from duckmesh.devstack.demo_data import Source, bodies
from duckmesh.devstack.errors import StackError
from duckmesh.devstack.http import Api

CONNECTIONS = 4
RECORDS_PER_REQUEST = 2_000
ATTEMPTS = 20
RETRYABLE = {429, 503}


@dataclass(frozen=True, kw_only=True)
class Sent:
    """What the API answered to many requests together."""

    accepted: int
    duplicates: int
    token: int  # a query that names it sees them all


def send(
    *, base_url: str, key: str, source: Source, table: pa.Table, progress: Callable[[int], None], stop: threading.Event
) -> Sent:
    """Every row of `table` has been acknowledged. Raises `StackError` on a refusal."""
    work = bodies(source, table, RECORDS_PER_REQUEST)
    lock = threading.Lock()
    connections = min(CONNECTIONS, -(-table.num_rows // RECORDS_PER_REQUEST))
    with ThreadPoolExecutor(max_workers=connections) as pool:
        senders = [
            pool.submit(_sender, Api(base_url, key), source.name, work, lock, progress, stop)
            for _ in range(connections)
        ]
        try:
            parts = [sender.result() for sender in senders]
        except BaseException:
            stop.set()
            raise
    return Sent(
        accepted=sum(part.accepted for part in parts),
        duplicates=sum(part.duplicates for part in parts),
        token=max(part.token for part in parts),
    )


def _sender(
    api: Api,
    table: str,
    work: Iterator[tuple[int, Callable[[], bytes]]],
    lock: threading.Lock,
    progress: Callable[[int], None],
    stop: threading.Event,
) -> Sent:
    accepted = duplicates = token = 0
    with api:
        while not stop.is_set():
            with lock:  # requests are taken, and so about sent, in event order
                count, body = next(work, (0, bytes))
            if not count:
                break
            answer = _post(api, table, body())
            accepted += answer["accepted_count"]
            duplicates += answer["duplicate_count"]
            token = max(token, answer["max_visibility_token"])
            progress(count)
    return Sent(accepted=accepted, duplicates=duplicates, token=token)


def _post(api: Api, table: str, body: bytes) -> dict[str, int]:
    """The answer to one request, sent again while the service is busy or away."""
    problem = ""
    for attempt in range(ATTEMPTS):
        try:
            answer = api.call("POST", f"/v1/ingest/{table}", body)
        except (OSError, http.client.HTTPException) as exc:
            problem, pause = str(exc), 0.5
        else:
            if answer.status == 200:
                accepted: dict[str, int] = answer.json()
                return accepted
            problem = f"{answer.status} {answer.body[:500].decode(errors='replace')}"
            if answer.status not in RETRYABLE:
                break
            pause = float(answer.headers.get("retry-after", 0.5))
        if attempt < ATTEMPTS - 1:
            time.sleep(pause)
    raise StackError(f"Ingest into {table} failed: {problem}")
