"""Everything at once for a while: writes, upserts, reads of old snapshots, every job of maintenance, and deaths.

What was once read of a snapshot is remembered, and read again as long as the snapshot is kept. Whatever contradicts a
promise is collected in `problems`; the history of the writes is the recorder's.
"""

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
import urllib3

from duckmesh.devstack.errors import StackError
from tests.client import Client, Lost, Reply
from tests.history import Sent
from tests.stack import Stack

EVENTS, ACCOUNTS = "events", "accounts"
KEYS = 40
ENOUGH = 400  # snapshots whose contents are remembered
_PRINT = "count(*), coalesce(sum(n), 0)::BIGINT, coalesce(bit_xor(hash(id, n)), 0)::VARCHAR"
PRINT_SQL = f"SELECT 'e', {_PRINT} FROM {EVENTS} UNION ALL SELECT 'a', {_PRINT} FROM {ACCOUNTS} ORDER BY 1"
_BUSY = (429, 503)
_FAILS_ALL_THE_SAME = frozenset({"RUN_CANCELLED", "RUN_WORKER_LOST", "STORE_UNAVAILABLE", "BUSY"})

Contents = tuple[tuple[object, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How long the soak goes on, more or less, and how often what is done in it."""

    seconds: float
    acks: int  # between two deaths
    pause: float  # between two writes of a writer
    rest: float  # between two runs of a job
    query_seconds: float  # of the long query


@dataclass
class Soak:
    """The load, as a block: in the body of the block the test's own thread kills programs with `disturb`."""

    stack: Stack
    client: Client
    pace: Pace
    seed: int
    backups: Path
    problems: list[str] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)
    seen: dict[int, Contents] = field(default_factory=dict)
    pinned: dict[str, int] = field(default_factory=dict)
    accounts: dict[str, int] = field(default_factory=dict)

    def __enter__(self) -> Self:
        self._over = threading.Event()
        self._names: set[str] = set()
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(max_workers=16)
        jobs: list[tuple[str, Mapping[str, object]]] = [
            ("compaction", {"table": EVENTS}),
            ("compaction", {"table": ACCOUNTS}),
            ("retention", {}),
            ("integrity", {"mode": "quick"}),
            ("integrity", {"mode": "deep", "table": EVENTS}),
            ("restore-drill", {"checksums": True}),
        ]
        loops: list[Callable[[random.Random], None]] = [self._upsert, self._look, self._look_back, self._query_long]
        loops += [self._pin, self._back_up, *(self._ask_for(*job) for job in jobs)]
        self._running: list[Future[None]] = [
            self._pool.submit(loop, random.Random(f"{self.seed}/{number}")) for number, loop in enumerate(loops)
        ]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._pool.shutdown(wait=True)
        if kind is None:
            for future in self._running:
                future.result()

    def disturb(self, deaths: Iterable[tuple[str, str]], *, between: Callable[[], object]) -> None:
        """One after the other programs die, whole or a process of theirs, or stand still past every lease."""
        chance = random.Random(self.seed)
        for how, name in deaths:
            between()
            self._supervise()
            self.done[f"{how} {name}"] += 1
            match how:
                case "kill":
                    self.stack.kill(name)
                    self.stack.start(name)
                case "child":
                    children = psutil.Process(self.stack.pid(name)).children()
                    with suppress(psutil.NoSuchProcess):
                        for child in chance.sample(children, min(1, len(children))):
                            child.kill()
                case _:
                    self.stack.freeze(name)
                    time.sleep(3)
                    self.stack.thaw(name)
            if name == "api":
                self.stack.await_ready()
            self._names.add(name)
        between()
        self._supervise()

    def _supervise(self) -> None:
        """A program that has ended by itself runs again: Celery's does when its only process dies as it starts."""
        for name in self._names:
            try:
                self.stack.check(name)
            except StackError:
                self.stack.wait_for_end(name)
                self.stack.start(name)
                self.done[f"started {name} again"] += 1

    def look_again(self, snapshot_id: int) -> bool:
        """Whether the snapshot is still there, with the contents that it had."""
        reply = self._ask("POST", "/v1/query", {"sql": PRINT_SQL, "snapshot_id": snapshot_id})
        if reply is None:
            return False
        if reply.status == 200:
            self._same(snapshot_id, reply.json(), "when it was read again")
            return True
        if reply.status == 410:
            if snapshot_id in self.pinned.values():
                self._problem(f"the pinned snapshot {snapshot_id} has expired")
        elif reply.status not in _BUSY:
            self._problem(f"snapshot {snapshot_id}: {reply.status} {reply.body!r}")
        return False

    def run(self, kind: str, options: Mapping[str, object], *, seconds: int = 60) -> Mapping[str, Any]:
        """The summary of a run that was asked for and has succeeded."""
        reply = self.client.call("POST", f"/v1/{kind}/run", {**options, "wait_seconds": seconds})
        assert reply.status == 200, reply.body
        shown: Mapping[str, Any] = reply.json()["summary"]
        return shown

    def _upsert(self, chance: random.Random) -> None:
        number = 0
        while not self._rest(0.3):
            number += 1
            some = chance.sample(range(KEYS), 4)
            deletes = number % 7 == 0
            rows: list[dict[str, object]] = [
                {"id": f"k{key}"} if deletes else {"id": f"k{key}", "n": number} for key in some
            ]
            document = {"records": [{"payload": row, "op": "delete" if deletes else "upsert"} for row in rows]}
            sent = [Sent(identity=f"{key}-{number}", key=f"upsert-{number}/{key}") for key in some]
            for _ in range(300):
                try:
                    self.client.send(ACCOUNTS, document, sent=sent, headers={"Idempotency-Key": f"upsert-{number}"})
                except Lost:
                    time.sleep(0.1)
                else:
                    break
            else:
                self._problem("an upsert was never acknowledged")
                return
            for row in rows:
                if deletes:
                    self.accounts.pop(str(row["id"]), None)
                else:
                    self.accounts[str(row["id"])] = number
            self.done["upserts"] += 1

    def _look(self, _chance: random.Random) -> None:
        """The latest snapshot is read as soon as it is there, before anything can have been done to it."""
        while not self._rest(max(0.2, self.pace.seconds / ENOUGH)):
            reply = self._ask("POST", "/v1/query", {"sql": PRINT_SQL})
            if reply is not None and reply.status == 200:
                found = reply.json()
                self._same(found["snapshot_id"], found, "as the latest")
                self.done["looks"] += 1

    def _look_back(self, chance: random.Random) -> None:
        while not self._rest(0.3):
            with self._lock:
                known = list(self.seen)
            if known:
                self.done["kept" if self.look_again(chance.choice(known)) else "gone"] += 1

    def _query_long(self, chance: random.Random) -> None:
        """A statement that begins on a snapshot which is about to expire, and takes most of the time it may."""
        count = 2_000_000
        while not self._rest(1):
            with self._lock:
                known = list(self.seen)[-3:]
            if not known:
                continue
            snapshot_id, began = chance.choice(known), time.monotonic()
            # The slow part comes first; the files of the table are read after it.
            sql = (
                f"WITH slow AS MATERIALIZED (SELECT sum(sqrt(i)) > 0 AS yes FROM range({count}) t(i))"
                f" SELECT 'e', {_PRINT} FROM {EVENTS}, slow WHERE yes"
            )
            most = round(self.pace.query_seconds * 1_000)
            reply = self._ask("POST", "/v1/query", {"sql": sql, "snapshot_id": snapshot_id, "timeout_ms": most})
            took = time.monotonic() - began
            if reply is not None and reply.status == 200:
                rows = tuple(tuple(row) for row in reply.json()["rows"])
                if rows != self.seen[snapshot_id][1:]:
                    self._problem(f"a query of {took:.0f} s on {snapshot_id}: {rows}, not {self.seen[snapshot_id][1:]}")
                self.done["long queries"] += 1
                self.done["longest query"] = max(self.done["longest query"], round(took))
                count = round(count * min(10.0, max(0.3, 0.7 * self.pace.query_seconds / took)))
            elif reply is not None and reply.status not in (410, *_BUSY):
                if reply.json().get("error_code") != "QUERY_TIMEOUT":
                    self._problem(f"a query of {took:.0f} s on {snapshot_id}: {reply.status} {reply.body!r}")
                count = max(1, count // 2)

    def _pin(self, _chance: random.Random) -> None:
        """Now and then the latest snapshot that was read is pinned; the first pins stay."""
        while not self._rest(self.pace.seconds / 8):
            with self._lock:
                known = list(self.seen)
            if known and len(self.pinned) < 3:
                name = f"pin-{len(self.pinned)}"
                reply = self._ask("POST", "/v1/snapshots/pin", {"name": name, "snapshot_id": known[-1]})
                if reply is not None and reply.status < 300:
                    self.pinned[name] = known[-1]

    def _back_up(self, _chance: random.Random) -> None:
        while not self._rest(self.pace.seconds / 4):
            done = self.stack.manage("backup", str(self.backups))
            if done.returncode:
                self._problem(f"a backup failed: {done.stderr[-500:]}")
            self.done["backups"] += 1

    def _ask_for(self, kind: str, options: Mapping[str, object]) -> Callable[[random.Random], None]:
        def ask(chance: random.Random) -> None:
            while not self._rest(chance.uniform(0, 2 * self.pace.rest)):
                reply = self._ask("POST", f"/v1/{kind}/run", {**options, "wait_seconds": 10})
                if reply is None:
                    continue
                document = reply.json()
                code = document.get("error_code", "")
                self.done[f"{kind} {document.get('status', code)}"] += 1
                if reply.status >= 400 and code not in _FAILS_ALL_THE_SAME and not _is_away(code):
                    self._problem(f"{kind}: {reply.status} {json.dumps(document)[:1500]}")

        return ask

    def _same(self, snapshot_id: int, document: Mapping[str, Any], when: str) -> None:
        rows = tuple(tuple(row) for row in document["rows"])
        with self._lock:
            known = self.seen.setdefault(snapshot_id, rows) if len(self.seen) < ENOUGH else self.seen.get(snapshot_id)
        if known not in (None, rows):
            self._problem(f"snapshot {snapshot_id} had {known} and {when} {rows}")

    def _ask(
        self, method: str, path: str, document: object, *, headers: Mapping[str, str] | None = None
    ) -> Reply | None:
        """The answer; None if none came."""
        try:
            reply = self.client.call(method, path, document, headers=headers)
            reply.json()
        except (urllib3.exceptions.HTTPError, json.JSONDecodeError):
            return None
        return reply

    def _problem(self, what: str) -> None:
        with self._lock:
            self.problems.append(what)

    def _rest(self, seconds: float) -> bool:
        """Whether it is time to stop, after so many seconds at most."""
        return self._over.wait(seconds)


def _is_away(code: str) -> bool:
    return code.endswith("UNAVAILABLE")
