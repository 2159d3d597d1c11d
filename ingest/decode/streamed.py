"""Bodies that are read chunk by chunk: what their chunks come to is one request, all of it or nothing."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import BinaryIO

from catalog.schema import Column, TableShape
from duckmesh.kernel.errors import Invalid
from ingest.decode import hashing
from ingest.decode.batch import DecodedBatch, DecodeLimits
from ingest.decode.collect import Collector, visibility_timeout
from ingest.decode.growth import Growth
from ingest.decode.json_body import add_rows
from ingest.decode.keys import all_keys_fit, key_texts, span_of
from ingest.decode.options import BodyOptions, BoundOptions, bind_options, require_columns
from ingest.decode.plan import plan_of
from ingest.decode.refusals import Doubt, Refusals, ValueRefused
from ingest.decode.rows import Rows
from ingest.decode.spool import Spool

CHUNK_BYTES = 4 * 2**20
_MOST_CELLS = 4_000_000


class Target:
    """What a chunk becomes rows of: the table as it is planned for by now, and the options bound to it."""

    def __init__(self, *, shape: TableShape, options: BodyOptions, limits: DecodeLimits) -> None:
        self._options = options
        self._limits = limits
        self._given = shape
        self._take(shape)
        self.max_line_bytes = limits.max_line_bytes

    def _take(self, shape: TableShape) -> None:
        self.shape = shape
        self.plan = plan_of(shape)
        self.bound = bind_options(self._options, shape)

    @property
    def growth(self) -> tuple[Column, ...] | None:
        """The columns that the table needs; None if it is as it was."""
        return None if self.shape is self._given else self.shape.schema.columns

    @property
    def hash_all(self) -> bool:
        """Whether payloads are hashed."""
        return self.bound.key is not None

    @property
    def most_rows(self) -> int:
        """Rows of one chunk, so that records that leave out most of many columns fill no memory either."""
        return max(1, _MOST_CELLS // (len(self.plan.columns) or 1))

    def grow(self, payloads: Callable[[], Iterable[object]]) -> bool:
        """Whether the table got columns, or wider ones, that hold the payloads too; they are read only if it grows."""
        return self.shape.grows and self.grow_by(lambda growth: growth.see_all(payloads()))

    def grow_by(self, see: Callable[[Growth], None]) -> bool:
        """Whether the growing table's shape is another one with what `see` shows it."""
        growth = Growth(self.shape, max_columns=self._limits.max_columns)
        see(growth)
        if growth.shape is self.shape:
            return False
        self._take(growth.shape)
        return True


Read = Callable[[BinaryIO, Target, Refusals], Iterator[Rows]]


def decode_streamed(
    body: Spool,
    *,
    media_type: str,
    shape: TableShape,
    options: BodyOptions,
    limits: DecodeLimits,
    request_key: str | None,
    read: Read,
) -> DecodedBatch:
    """What `read` finds in the body as one request; InvalidRecord if it refused anything.

    `read` yields the rows of chunk after chunk until it refuses something, and then only refuses, until that is full.
    """
    visibility_timeout(options.visibility_timeout_ms, limits)  # before a long body is decoded in vain
    target = Target(shape=shape, options=options, limits=limits)
    collector = Collector(limits=limits, request_key=request_key)
    refusals = Refusals()
    empty = True
    try:
        with body.open() as source:
            for rows in read(source, target, refusals):
                empty = False
                add_rows(collector, rows, target.plan)
        if refusals.count:
            raise refusals.error()
        if empty:
            raise Invalid("The body holds no records: send at least one")
        require_columns(options, target.shape)
        return collector.finish(
            request_hash=None if request_key is None else body_hash_of(body, media_type, target.bound),
            wait_for_visibility=options.wait_for_visibility,
            visibility_timeout_ms=options.visibility_timeout_ms,
            growth=target.growth,
        )
    except BaseException:
        collector.close()
        raise


def body_hash_of(body: Spool, media_type: str, bound: BoundOptions) -> bytes:
    """The hash of all that a request says whose body is no JSON: its bytes, and the options beside them."""
    return hashing.body_hash(
        body,
        media_type=media_type,
        op=bound.op,
        key_column=bound.key.name if bound.key else None,
        event_time_column=bound.event_time.name if bound.event_time else None,
    )


def with_options(rows: Rows, target: Target) -> Rows:
    """The rows with the keys and times of their columns; Doubt if one of them may be wrong."""
    plan, bound = target.plan, target.bound
    arrays = dict(zip((column.name for column in plan.columns), rows.arrays, strict=True))
    keys: list[str | None] = [] if bound.key is None else key_texts(arrays[bound.key.name], bound.key)
    if not all_keys_fit(keys):
        raise Doubt
    try:
        span = span_of(arrays[bound.event_time.name], bound.event_time) if bound.event_time else None
    except ValueRefused:
        raise Doubt from None
    return replace(rows, keys=keys, event_span=span)
