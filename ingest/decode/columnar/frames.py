"""Decoded rows on their way into the envelope, in frames that are neither tiny nor huge."""

from dataclasses import dataclass

import pyarrow as pa

from ingest.decode.collect import Collector

_FRAME_ROWS = 65_536
_FRAME_BYTES = 4 * 2**20


@dataclass(frozen=True, kw_only=True)
class DecodedRows:
    """Some rows as the table stores them. `contents` are the payload hashes of those with a key."""

    batch: pa.RecordBatch
    keys: list[str | None]
    contents: bytes
    event_span: tuple[int, int] | None


class Frames:
    """Gathers rows until they are enough for a frame."""

    def __init__(self, collector: Collector) -> None:
        self._collector = collector
        self._waiting: list[DecodedRows] = []
        self._rows = self._bytes = 0

    def add(self, rows: DecodedRows) -> None:
        """The rows are the next of the request."""
        self._waiting.append(rows)
        self._rows += rows.batch.num_rows
        self._bytes += rows.batch.nbytes
        if self._rows >= _FRAME_ROWS or self._bytes >= _FRAME_BYTES:
            self.flush()

    def flush(self) -> None:
        """All that was added is with the collector."""
        if not self._waiting:
            return
        spans = [rows.event_span for rows in self._waiting if rows.event_span is not None]
        batches = [rows.batch for rows in self._waiting]
        self._collector.add(
            batches[0] if len(batches) == 1 else pa.concat_batches(batches),
            keys=[key for rows in self._waiting for key in rows.keys],
            contents=b"".join(rows.contents for rows in self._waiting),
            event_span=(min(low for low, _ in spans), max(high for _, high in spans)) if spans else None,
        )
        self._waiting = []
        self._rows = self._bytes = 0
