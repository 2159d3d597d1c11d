"""A query whose answer is sent while it is computed: bytes as fast as the client takes them, and no faster.

Nothing is sent before there is a good deal of it, or all: what goes wrong until then is an error like any other. What
goes wrong later ends the body with bytes that no reader takes for an end, and whoever sends it must not end it well.
"""

import tempfile
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa
import structlog

from duckmesh.kernel.errors import DuckMeshError
from query.body import QueryRequest
from query.errors import ClientGone, QueryResourcesExceeded
from query.formats import Format, Writer
from query.incoming import Incoming
from query.service import NOBODY, PATIENCE, Asker, Course, Line, Query, QueryPlane, observed, running_query

HELD_BYTES = 256 * 1024
PIECE_BYTES = 256 * 1024
ROWS_AT_ONCE = 4_096  # text is made of Python's objects, which are large

log = structlog.get_logger(__name__)


class BrokenAnswer(Exception):
    """The rest of the body will not come; `tail` is what to send instead, and `__cause__` says why."""

    def __init__(self, tail: bytes) -> None:
        super().__init__("the answer has broken off")
        self.tail = tail


@dataclass(frozen=True, kw_only=True)
class StreamedAnswer:
    """What is known before the body. `truncated` is only known where a number of rows was asked for, `size_bytes` only
    of an answer that is whole already.

    `body` must be closed by whoever does not read it to its end. An empty piece means that there is nothing yet: to
    send it is to find out whether somebody still waits. It may raise `BrokenAnswer`.
    """

    snapshot_id: int
    visible_token: int
    truncated: bool
    size_bytes: int | None
    body: Generator[bytes]


def stream(
    request: QueryRequest, *, form: Format, asker: Asker, plane: QueryPlane, now: datetime, line: Line = NOBODY
) -> StreamedAnswer:
    """The rows of the statement in one snapshot, as `form` has them, or an error; `now` is for the audit.

    An answer of a limited number of rows is whole before it begins, because only then is it known whether there were
    more of them.
    """
    parts = _parts(request, form, asker, plane, now, line)
    head = next(parts)
    assert isinstance(head, _Head), "the first part is the head"
    return StreamedAnswer(
        snapshot_id=head.query.read.snapshot_id,
        visible_token=head.query.read.visible_token,
        truncated=head.query.running.truncated,
        size_bytes=head.size_bytes,
        body=_body(parts, head.written),
    )


class _Written:
    """The answer's bytes as they are made; None whenever none came for a while."""

    def __init__(self, form: Format, query: Query, course: Course, *, max_bytes: int) -> None:
        self._form, self._query, self._course, self._max_bytes = form, query, course, max_bytes
        self._size = 0
        self.writer: Writer | None = None

    def pieces(self) -> Generator[bytes | None]:
        incoming = Incoming(self._query.running)
        for batch in incoming.batches(PATIENCE):
            if batch is None:
                yield None
                continue
            writer = yield from self._begun(incoming.schema)
            for start in range(0, batch.num_rows, ROWS_AT_ONCE):
                part = batch.slice(start, ROWS_AT_ONCE)
                self._course.row_count += part.num_rows
                yield from self._cut(writer.rows(part))
        # The runner's work is done, and somebody else may have it while the client takes the rest.
        self._query.running.close()
        writer = yield from self._begun(incoming.schema)
        yield from self._cut(writer.end())

    def _begun(self, schema: pa.Schema) -> Generator[bytes, None, Writer]:
        if self.writer is None:
            self.writer = self._form.writer(schema, self._query.running.column_types)
            yield from self._cut(self.writer.begin())
        return self.writer

    def _cut(self, data: bytes) -> Iterator[bytes]:
        self._size += len(data)
        if self._size > self._max_bytes:
            raise QueryResourcesExceeded(
                f"The result is larger than {self._max_bytes} bytes; select fewer rows or columns."
            )
        for start in range(0, len(data), PIECE_BYTES):
            yield data[start : start + PIECE_BYTES]


@dataclass(frozen=True, kw_only=True)
class _Head:
    query: Query
    written: _Written
    size_bytes: int | None


def _parts(
    request: QueryRequest, form: Format, asker: Asker, plane: QueryPlane, now: datetime, line: Line
) -> Generator[_Head | bytes]:
    policy = plane.policy
    with ExitStack() as held:
        course = held.enter_context(observed(request, asker, plane, now, line))
        query = held.enter_context(
            running_query(request, asker, plane, course, row_limit=request.row_limit, max_bytes=policy.stream_bytes)
        )
        spool = held.enter_context(tempfile.SpooledTemporaryFile(max_size=2 * HELD_BYTES, dir=policy.scratch))
        written = _Written(form, query, course, max_bytes=policy.stream_bytes)
        pieces = held.enter_context(closing(written.pieces()))
        whole = True
        for piece in pieces:
            if piece is not None:
                spool.write(piece)
            elif line.gone():
                raise ClientGone("The client has hung up.")
            if request.row_limit is None and spool.tell() >= HELD_BYTES:
                whole = False
                break
        size = spool.tell()
        line.begun()
        yield _Head(query=query, written=written, size_bytes=size if whole else None)
        if not whole:
            held.enter_context(_stopped_at_its_deadline(query, course, line))
        spool.seek(0)
        while data := spool.read(PIECE_BYTES):
            yield _counted(data, course)
        for piece in pieces:
            yield _counted(piece or b"", course)


def _counted(piece: bytes, course: Course) -> bytes:
    course.size_bytes += len(piece)
    return piece


@contextmanager
def _stopped_at_its_deadline(query: Query, course: Course, line: Line) -> Iterator[None]:
    """A client that takes nothing blocks the thread that reads from the runner; the deadline needs another one."""

    def stop() -> None:
        query.running.close()
        line.over()

    timer = threading.Timer(max(query.deadline - time.monotonic(), 0), stop)
    timer.daemon = True
    timer.start()
    try:
        with course.cancellation.stopping(line.over):
            yield
    finally:
        timer.cancel()


def _body(parts: Generator[_Head | bytes], written: _Written) -> Generator[bytes]:
    with closing(parts):
        try:
            for part in parts:
                assert isinstance(part, bytes), "only the first part is a head"
                yield part
        except DuckMeshError as exc:
            log.info("query_broke_off", error_code=exc.code)
            raise BrokenAnswer(_tail(written, f"{exc.code}: {exc.message}")) from exc
        except Exception as exc:
            log.exception("query_broke_off", error_code=DuckMeshError.code)
            raise BrokenAnswer(_tail(written, f"{DuckMeshError.code}: The answer broke off.")) from exc


def _tail(written: _Written, reason: str) -> bytes:
    return written.writer.broken(" ".join(reason.split())) if written.writer else b""
