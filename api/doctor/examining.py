"""Runs the checks: at once for different servers, for a bounded time, and none is hidden by another that breaks."""

import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import Future, wait
from datetime import timedelta

import structlog
from django.db import connection

from api.doctor.findings import Asks, Check, Finding, Verdict, finding, wrong
from duckmesh.kernel.acting import acting_for_all

_STATEMENT_LIMIT = "SET statement_timeout = '4s'; SET lock_timeout = '2s'"

log = structlog.get_logger(__name__)

Asked = dict[str, Future[Verdict]]


class Doctor:
    """Makes the same checks again and again. A server that hangs holds one thread, however often it is asked."""

    def __init__(self, checks: Sequence[Check], *, within: timedelta) -> None:
        self._within = within
        self._checks = tuple(checks)
        self._rounds: dict[Asks, Asked] = {}
        self._lock = threading.Lock()

    def examine(self) -> list[Finding]:
        """What every check finds, in their order; who asks while others wait gets what they get."""
        by_server: defaultdict[Asks, list[Check]] = defaultdict(list)
        for check in self._checks:
            by_server[check.asks].append(check)
        asked: Asked = {}
        for asks, checks in by_server.items():
            asked |= self._ask(asks, checks)
        wait(asked.values(), timeout=self._within.total_seconds())
        return [finding(check, self._verdict(asked[check.name])) for check in self._checks]

    def _ask(self, asks: Asks, checks: Sequence[Check]) -> Asked:
        with self._lock:
            running = self._rounds.get(asks)
            if running is None or all(future.done() for future in running.values()):
                running = self._rounds[asks] = {check.name: Future() for check in checks}
                work = (checks, dict(running), asks == Asks.POSTGRESQL)
                # A daemon: whoever asked on a terminal does not wait for a server that never answers.
                threading.Thread(target=_look, args=work, name=f"doctor-{asks}", daemon=True).start()
            return running

    def _verdict(self, future: Future[Verdict]) -> Verdict:
        if not future.done():
            return wrong(f"No answer within {self._within.total_seconds():.0f} seconds.")
        return future.result()


def _look(checks: Sequence[Check], asked: Asked, in_database: bool) -> None:
    try:
        for check in checks:
            began = time.monotonic()
            with acting_for_all():
                verdict = _verdict_of(check, in_database=in_database)
            asked[check.name].set_result(verdict)
            log.debug("doctor_checked", check=check.name, seconds=round(time.monotonic() - began, 3))
    finally:
        connection.close()


def _verdict_of(check: Check, *, in_database: bool) -> Verdict:
    try:
        if in_database:
            with connection.cursor() as cursor:
                cursor.execute(_STATEMENT_LIMIT)
        return check.look()
    except Exception as exc:  # whatever breaks one check is that check's finding
        log.warning("doctor_check_broke", check=check.name, error=type(exc).__name__, exc_info=exc)
        connection.close()
        return wrong(f"It could not be looked at ({type(exc).__name__}); the log says why.")
