"""One sealed process, one tenant for life: statements in, Arrow out, one at a time.

It is forked by the zygote with everything imported and nothing opened. The first message gives it its tenant; it seals
itself before it opens DuckDB. It may be killed at any moment, and trusts that it will be.
"""

import os
import socket
from dataclasses import dataclass
from typing import Any

import structlog

from duckmesh.kernel.logs import ON_EVERY_LINE
from query import limits, wire
from query.engine import Engine, EngineSettings
from query.errors import QueryForbidden
from query.failures import Failure, StatementError
from query.gate import Verdict, judge
from query.predicates import uses_to_json
from query.request import RunRequest

REMEMBERED_VERDICTS = 256

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class RunnerSettings:
    """How a runner is confined. `allow_unsealed` lets it run where the kernel cannot seal it."""

    engine: EngineSettings
    allow_unsealed: bool = False


def serve(sock: socket.socket, *, settings: RunnerSettings, parent: int) -> None:
    """Answers on `sock` until the pool closes it. Returns or raises only to end the process."""
    limits.die_with(parent)
    engine = settings.engine
    # A spill file is written in blocks, with some slack above what DuckDB counts.
    limits.confine(memory_bytes=engine.memory_bytes, file_bytes=2 * engine.spill_bytes)
    first = _next(sock)
    tenant_dir = str(first["tenant_dir"])
    limits.seal(readable=tenant_dir, writable=engine.spill_dir)
    if not limits.sealing().sealed and not settings.allow_unsealed:
        raise OSError(limits.sealing().describe())
    runner = Runner(Engine(tenant_dir=tenant_dir, settings=engine), sock, threads=engine.threads)
    while True:
        runner.answer(_next(sock))


def _next(sock: socket.socket) -> dict[str, Any]:
    return wire.receive_message(sock, until=None, max_message=wire.MAX_REQUEST_MESSAGE)


class Runner:
    """Answers requests with frames: the types of the columns, pieces of the Arrow stream, and how it ended."""

    def __init__(self, engine: Engine, sock: socket.socket, *, threads: int) -> None:
        self._engine, self._sock, self._threads = engine, sock, threads
        self._verdicts: dict[str, Verdict] = {}
        self._ahead = b""  # frames that go with the next one: every send wakes the other side

    def answer(self, request: dict[str, Any]) -> None:
        """The request has its answer, whatever it was."""
        structlog.contextvars.clear_contextvars()
        about = request.get("about", {})
        structlog.contextvars.bind_contextvars(**{name: str(about[name]) for name in ON_EVERY_LINE if name in about})
        limits.allow_cpu(float(request["seconds"]) * (self._threads + 1))
        try:
            if request["do"] == "inspect":
                verdict = self._judge(str(request["sql"]))
                message = {
                    "ok": True,
                    "tables": sorted(verdict.tables),
                    "uses": uses_to_json(verdict.uses),
                    "code": verdict.code,
                    "message": verdict.message,
                }
            else:
                message = self._run(RunRequest.from_json(request["run"]))
        except StatementError as exc:
            message = _failed(exc.failure)
            if exc.failure.retire:
                log.warning("runner_spent", error_code=exc.failure.code)
        wire.send_message(self._sock, message, ahead=self._taken())

    def _run(self, request: RunRequest) -> dict[str, Any]:
        verdict = self._judge(request.sql)
        if verdict.code:
            return _failed(Failure(code=verdict.code, message=verdict.message))
        if missing := verdict.tables - {view.name.lower() for view in request.views}:
            # A name without a view of ours could be one of DuckDB's own.
            return _failed(Failure(code=QueryForbidden.code, message=f"There is no table {min(missing)}."))
        ran = self._engine.run(request, emit=self._emit, announce=self._announce)
        return {
            "ok": True,
            "row_count": ran.row_count,
            "truncated": ran.truncated,
            "engine_ms": ran.engine_ms,
            "peak_bytes": limits.peak_memory(),
        }

    def _judge(self, sql: str) -> Verdict:
        # The pool has asked already, perhaps another runner; this one believes only itself.
        verdict = self._verdicts.get(sql)
        if verdict is None:
            verdict = judge(self._engine.serialise(sql), sql=sql)
            if len(self._verdicts) >= REMEMBERED_VERDICTS:
                self._verdicts.clear()
            self._verdicts[sql] = verdict
        return verdict

    def _announce(self, column_types: tuple[str, ...]) -> None:
        self._ahead = wire.message_frame({"ok": True, "column_types": column_types})

    def _emit(self, piece: bytes, more: bool) -> None:
        if more or len(piece) > wire.MAX_DATA:
            wire.send_data(self._sock, piece, ahead=self._taken())
        else:
            self._ahead += wire.data_frame(piece)

    def _taken(self) -> bytes:
        ahead, self._ahead = self._ahead, b""
        return ahead


def _failed(failure: Failure) -> dict[str, Any]:
    return {"ok": False, "code": failure.code, "message": failure.message, "retire": failure.retire}


def close_inherited(*, keep: int) -> None:
    """Of the files the zygote had open only standard input, output and error are left, and `keep`."""
    os.closerange(3, keep)
    os.closerange(keep + 1, limits.OPEN_FILES)
