"""Threads for races: each with its own database connection, all started at one moment, none of them forgotten."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from django.db import connections

_Result = TypeVar("_Result")


def together(functions: Sequence[Callable[[], _Result]], *, seconds: float = 60) -> list[_Result]:
    """Every function has run, each in a thread, from one moment on; their results in order, or the first error."""
    start = threading.Barrier(len(functions))

    def run(function: Callable[[], _Result]) -> _Result:
        start.wait(seconds)
        try:
            return function()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(max_workers=len(functions)) as pool:
        futures: list[Future[_Result]] = [pool.submit(run, function) for function in functions]
        return [future.result(timeout=seconds) for future in futures]


class Background:
    """A function in a thread with its own database connection; `result()` waits for it."""

    def __init__(self, function: Callable[[], object]) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1)
        self._future = self._pool.submit(self._run, function)
        self._pool.shutdown(wait=False)

    @staticmethod
    def _run(function: Callable[[], object]) -> object:
        try:
            return function()
        finally:
            connections.close_all()

    @property
    def done(self) -> bool:
        return self._future.done()

    def result(self, seconds: float = 30) -> object:
        """What the function returned, or its error raised."""
        return self._future.result(timeout=seconds)


def wait_until_blocked(sessions: int, *, seconds: float = 10) -> None:
    """At least this many sessions of this database wait for a lock. Judged from a connection of its own."""
    waiting = connections.create_connection("default")
    deadline = time.monotonic() + seconds
    try:
        with waiting.cursor() as cursor:
            while True:
                cursor.execute(
                    "SELECT count(*) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND wait_event_type = 'Lock'"
                )
                if cursor.fetchone()[0] >= sessions:
                    return
                assert time.monotonic() < deadline, f"{sessions} sessions should wait for a lock"
                time.sleep(0.005)
    finally:
        waiting.close()
