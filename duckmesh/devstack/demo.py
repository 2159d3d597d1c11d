"""`make demo`: real flights through the whole stack over HTTP, and a tour of what came of them."""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn
from rich.table import Table

from duckmesh.devstack import demo_questions as questions
from duckmesh.devstack import stack
from duckmesh.devstack.credentials import Credentials
from duckmesh.devstack.demo_data import FLIGHTS, SMALL, SOURCES
from duckmesh.devstack.demo_feed import RECORDS_PER_REQUEST, Sent, send
from duckmesh.devstack.demo_upkeep import keep_house
from duckmesh.devstack.errors import StackError
from duckmesh.devstack.http import Api
from duckmesh.devstack.layout import Home
from duckmesh.devstack.supervision import Supervisor
from duckmesh.kernel.config import PREFIX, Config
from query.limits import sealing

VISIBLE_WITHIN_MS = 60_000
EARLY_FLIGHTS = 20_000
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _Ended(BaseException):
    """Somebody asked the demo to end."""


def run_demo(config: Config, *, console: Console, leave: bool) -> int:
    """The tour has been given. Unless `leave`, the stack stays up until a signal comes. What was started is stopped."""
    for number in ENDING:
        signal.signal(number, _end)
    started: stack.Started | None = None
    onlookers = _onlookers()
    try:
        console.print("Starting PostgreSQL, Redis, the API and the workers …")
        _opt_out_of_sealing(console)
        started = stack.up(config, say=lambda text: console.print(f"  {text}"), tied=True)
        if started.already:
            console.print("  DuckMesh is already running; the demo uses it and leaves it running.")
        status = _tour(started, console)
        _farewell(started, console)
        if not leave and not started.already:
            console.print("\nThe stack stays up. Ctrl-C stops it.")
            supervisor = Supervisor(Home(config.home))
            # A closed terminal signals only the first process on it, which may be make, and make waits for this one.
            while supervisor.running() and _onlookers() == onlookers:
                time.sleep(1)
    except _Ended:
        status = 0 if started is not None and not leave else 130
    finally:
        for number in ENDING:
            signal.signal(number, signal.SIG_IGN)  # stopping is not interrupted
        if started is not None and not started.already:
            with contextlib.suppress(OSError):  # the terminal may be gone
                console.print("Stopping …")
            stack.down(config)
    return status


def _opt_out_of_sealing(console: Console) -> None:
    """Where runners cannot be sealed, the demo runs them all the same and says so: its only tenant is its user."""
    if not sealing().sealed:
        os.environ[f"{PREFIX}ALLOW_UNSEALED_SQL"] = "1"
        console.print(f"WARNING: {sealing().describe()}", style="bold red")
        console.print(
            "WARNING: the demo runs its own SQL unsealed. Let nobody else query this stack.", style="bold red"
        )


def _end(_number: int, _frame: FrameType | None) -> None:
    raise _Ended


def _onlookers() -> tuple[int, bool]:
    """Who could press Ctrl-C: the process that started this one, and a terminal."""
    return os.getppid(), sys.stdout.isatty()


def _tour(started: stack.Started, console: Console) -> int:
    """The exit status: 0 if every known answer came out."""
    credentials = started.credentials
    with Api(credentials.base_url, credentials.api_key) as api:
        _create_tables(api, console)
        token = _ingest(credentials, api, console)
        wrong = _check(api, token, console)
        for title, sql in questions.QUESTIONS.items():
            _ask(api, title, sql, token, console)
        _travel(api, console)
        keep_house(api, console)
        wrong |= _check(api, token, console)
        _lag(api, console)
    return 1 if wrong else 0


def _create_tables(api: Api, console: Console) -> None:
    known = 0
    for source in SOURCES:
        answer = api.call("POST", "/v1/tables", source.definition())
        if answer.status == 409:
            known += 1
        elif answer.status != 201:
            raise StackError(f"The table {source.name} was refused: {answer.body.decode(errors='replace')}")
    names = ", ".join(source.name for source in SOURCES)
    console.print(f"\nTables: {names}" + (" (they are there from an earlier run)" if known else ""))


def _ingest(credentials: Credentials, api: Api, console: Console) -> int:
    """Everything is acknowledged; the answer is the token of the last write."""
    stop = threading.Event()

    def feed(source: Any, table: Any, advance: Any) -> Sent:
        return send(
            base_url=credentials.base_url,
            key=credentials.api_key,
            source=source,
            table=table,
            progress=advance,
            stop=stop,
        )

    begun = time.monotonic()
    small = [feed(source, source.read(), lambda _: None) for source in SMALL]
    flights = FLIGHTS.read()
    with _progress(api, console, flights.num_rows) as advance:
        sent = feed(FLIGHTS, flights, advance)
        seconds = time.monotonic() - begun
        again = feed(FLIGHTS, flights.slice(0, 10 * RECORDS_PER_REQUEST), lambda _: None)
    total = [*small, sent]
    accepted, duplicates = sum(part.accepted for part in total), sum(part.duplicates for part in total)
    console.print(
        f"Acknowledged {accepted:,} records in {seconds:.1f} s ({accepted / seconds:,.0f} records/s), durable."
    )
    if duplicates:
        console.print(f"{duplicates:,} were known from an earlier run: their idempotency keys kept them from doubling.")
    console.print(
        f"Sent the first {again.duplicates + again.accepted:,} flights again: {again.duplicates:,} duplicates."
    )
    if again.accepted:
        raise StackError(f"{again.accepted} records were accepted twice.")
    return max(part.token for part in total)


@contextlib.contextmanager
def _progress(api: Api, console: Console, total: int) -> Iterator[Any]:
    """A bar of the flights sent, with their rate and how far the published snapshots are behind."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        TaskProgressColumn(),
        TextColumn("{task.fields[rate]}"),
        TextColumn("{task.fields[behind]}"),
    )
    finished = threading.Event()
    begun = time.monotonic()
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("Flights", total=total, rate="", behind="")
        watcher = threading.Thread(target=_watch, args=(api, bar, task, begun, finished))
        watcher.start()
        try:
            yield lambda count: bar.advance(task, count)
        finally:
            finished.set()
            watcher.join()


def _watch(api: Api, bar: Progress, task: TaskID, begun: float, finished: threading.Event) -> None:
    """Only this thread uses the connection while the bar is shown."""
    while not finished.wait(0.25):
        rate = bar.tasks[task].completed / (time.monotonic() - begun)
        try:
            lag = api.call("GET", "/v1/lag").json()
            behind = f"visible {lag['oldest_pending_lag_ms'] or 0:,.0f} ms later"
        except (OSError, ValueError, KeyError):
            behind = ""
        bar.update(task, rate=f"{rate:,.0f} records/s", behind=behind)


def _query(api: Api, sql: str, **options: object) -> dict[str, Any]:
    answer = api.call("POST", "/v1/query", {"sql": sql, **options})
    if answer.status != 200:
        raise StackError(f"A query was refused: {answer.body.decode(errors='replace')}")
    found: dict[str, Any] = answer.json()
    return found


def _check(api: Api, token: int, console: Console) -> bool:
    """Whether a known answer is wrong, asked with the barrier on the last write."""
    begun = time.monotonic()
    found = _query(api, questions.KNOWN_SQL, min_visibility_token=token, consistency_timeout_ms=VISIBLE_WITHIN_MS)
    milliseconds = (time.monotonic() - begun) * 1000
    console.print(
        f"\nA query that waits for token {token:,}, the last write, was answered after {milliseconds:,.0f} ms "
        f"from snapshot {found['snapshot_id']}:"
    )
    table = Table("known answer", "expected", "found", "")
    wrong = False
    for (name, expected), value in zip(questions.KNOWN.items(), found["rows"][0], strict=True):
        wrong |= value != expected
        table.add_row(name, f"{expected:,}", f"{value:,}", "ok" if value == expected else "WRONG")
    console.print(table)
    return wrong


def _ask(api: Api, title: str, sql: str, token: int, console: Console) -> None:
    found = _query(api, sql, min_visibility_token=token)
    table = Table(*found["columns"], title=title, title_justify="left", title_style="bold")
    for row in found["rows"]:
        table.add_row(*(f"{value:,}" if isinstance(value, int) else str(value) for value in row))
    console.print()
    console.print(table)
    stats = found["stats"]
    console.print(f"{stats['duration_ms']:.0f} ms, {stats['scanned_files']} files read")


def _travel(api: Api, console: Console) -> None:
    """Show the flights as they were in an early snapshot, found by halving the history."""
    now = _query(api, questions.FLIGHTS_AT)
    low, high = 0, int(now["snapshot_id"])
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _flights_in(api, middle) >= EARLY_FLIGHTS else (middle, high)
    count = _flights_in(api, high)
    if count == 0:
        return
    then = _query(api, questions.FLIGHTS_AT, snapshot_id=high)
    console.print(
        f"\nTime travel: snapshot {high} ({then['snapshot_time']}) still holds {then['rows'][0][0]:,} flights, up to "
        f"{then['rows'][0][1]}; the latest, {now['snapshot_id']}, holds {now['rows'][0][0]:,}."
    )


def _flights_in(api: Api, snapshot_id: int) -> int:
    """How many flights a snapshot holds; none if it has no such table, or has expired."""
    answer = api.call("POST", "/v1/query", {"sql": questions.FLIGHTS_AT, "snapshot_id": snapshot_id})
    return int(answer.json()["rows"][0][0]) if answer.status == 200 else 0


def _lag(api: Api, console: Console) -> None:
    lag = api.call("GET", "/v1/lag").json()
    console.print(
        f"\nLag: {lag['pending_events']} records wait, token {lag['latest_visibility_token']:,} of "
        f"{lag['latest_issued_token']:,} is visible, snapshot {lag['latest_snapshot_id']} is the latest."
    )


def _farewell(started: stack.Started, console: Console) -> None:
    found, credentials = started.running, started.credentials
    header = f'-H "Authorization: Bearer {credentials.api_key}"'
    console.print("\nLook around:")
    console.print(f"  API      {found.base_url}    docs {found.docs_url}    metrics {found.base_url}/v1/metrics")
    console.print(f"  Admin    {found.admin_url}    user operator, password in operator.json of the home")
    console.print(f"  Flower   {found.flower_url}")
    console.print(f"  Tenant   {credentials.tenant_id}    key {credentials.api_key}")
    console.print("Try:")
    console.print(f"  curl {header} {found.base_url}/v1/lag")
    console.print(f"  curl {header} {found.base_url}/v1/tables/flights")
    console.print(
        f"  curl {header} -H 'Content-Type: application/json' {found.base_url}/v1/query "
        """-d '{"sql": "SELECT origin, count(*) FROM flights GROUP BY origin"}'"""
    )
