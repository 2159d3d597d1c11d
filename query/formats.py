"""The forms of an answer besides JSON, each written batch after batch.

| | |
|---|---|
| Arrow stream | as DuckDB exports its types; names that occur twice stay |
| Parquet | the same, row group after row group; see `formats_parquet` |
| NDJSON | an object a line, values as in the JSON answer; a name that occurs again gets `_1`, `_2`, … |
| CSV | a header line, RFC 4180, values in the same text forms; NULL is nothing, an empty text is `""` |
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
import pyarrow as pa
from pyarrow import ipc

from query.formats_parquet import ParquetWriter
from query.results import values
from query.sink import Sink, distinct

_encoder = msgspec.json.Encoder()
_MUST_QUOTE = frozenset(',"\r\n')


class Writer(Protocol):
    """Writes one answer. What the calls return, in their order, is the body."""

    def begin(self) -> bytes:
        """What stands before the rows."""
        ...

    def rows(self, batch: pa.RecordBatch) -> bytes:
        """These rows, or as much of what has come as can be written now."""
        ...

    def end(self) -> bytes:
        """What makes the body whole."""
        ...

    def broken(self, reason: str) -> bytes:
        """What no reader takes for an end: the rest will not come. `reason` is one line of text."""
        ...


class ArrowWriter:
    """What the runner wrote, read, checked and written again."""

    def __init__(self, schema: pa.Schema, _kinds: Sequence[str]) -> None:
        self._sink = Sink()
        self._writer = ipc.new_stream(pa.PythonFile(self._sink, mode="w"), schema)

    def begin(self) -> bytes:
        return self._sink.take()

    def rows(self, batch: pa.RecordBatch) -> bytes:
        self._writer.write_batch(batch)
        return self._sink.take()

    def end(self) -> bytes:
        self._writer.close()
        return self._sink.take()

    def broken(self, reason: str) -> bytes:
        # A message that is longer than any can be; a stream that merely stops would be read as one that has ended.
        return b"\xff\xff\xff\xff\xff\xff\xff\x7f" + reason.encode()


class LinesWriter:
    """NDJSON."""

    def __init__(self, schema: pa.Schema, kinds: Sequence[str]) -> None:
        self._names, self._kinds = distinct(schema.names), kinds

    def begin(self) -> bytes:
        return b""

    def rows(self, batch: pa.RecordBatch) -> bytes:
        columns = [values(column, kind) for column, kind in zip(batch.columns, self._kinds, strict=True)]
        return _encoder.encode_lines([dict(zip(self._names, row, strict=True)) for row in zip(*columns, strict=True)])

    def end(self) -> bytes:
        return b""

    def broken(self, reason: str) -> bytes:
        return f"!{reason}\n".encode()


class CsvWriter:
    """CSV."""

    def __init__(self, schema: pa.Schema, kinds: Sequence[str]) -> None:
        self._names, self._kinds = schema.names, kinds

    def begin(self) -> bytes:
        return _line([_quoted(name) for name in self._names])

    def rows(self, batch: pa.RecordBatch) -> bytes:
        columns = [_fields(values(column, kind)) for column, kind in zip(batch.columns, self._kinds, strict=True)]
        return b"".join(map(_line, zip(*columns, strict=True)))

    def end(self) -> bytes:
        return b""

    def broken(self, reason: str) -> bytes:
        # A quote that nothing closes.
        return f'"!{reason}'.encode()


def _line(fields: Sequence[str]) -> bytes:
    return (",".join(fields) + "\r\n").encode()


# `Any`: a value that `msgspec` writes as JSON.
def _fields(column: list[Any]) -> list[str]:
    return [_quoted(value) if type(value) is str else _field(value) for value in column]


def _field(value: Any) -> str:
    if value is None:
        return ""
    text = _encoder.encode(value).decode()
    return text if isinstance(value, bool | int | float | msgspec.Raw) else _quoted(text)


def _quoted(text: str) -> str:
    if text and _MUST_QUOTE.isdisjoint(text):
        return text
    return '"' + text.replace('"', '""') + '"'


@dataclass(frozen=True, kw_only=True)
class Format:
    """A form of an answer: its media type as `Accept` names it, as `Content-Type` says it, and who writes it."""

    media_type: str
    content_type: str
    writer: Callable[[pa.Schema, Sequence[str]], Writer]


ARROW = Format(
    media_type="application/vnd.apache.arrow.stream",
    content_type="application/vnd.apache.arrow.stream",
    writer=ArrowWriter,
)
PARQUET = Format(
    media_type="application/vnd.apache.parquet", content_type="application/vnd.apache.parquet", writer=ParquetWriter
)
CSV = Format(media_type="text/csv", content_type="text/csv; charset=utf-8; header=present", writer=CsvWriter)
NDJSON = Format(media_type="application/x-ndjson", content_type="application/x-ndjson", writer=LinesWriter)
STREAMED = (ARROW, PARQUET, CSV, NDJSON)
