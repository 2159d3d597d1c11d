"""A runner's answer as record batches that can be trusted to be what they say."""

import time
from collections.abc import Iterator

import pyarrow as pa
from pyarrow import ipc

from query.exchange import failed
from query.messages import MessageError, Messages
from query.running import Running

_EXTENSIONS = frozenset({"arrow.json", "arrow.uuid", "arrow.bool8"})
_PLAIN = (
    pa.types.is_null,
    pa.types.is_boolean,
    pa.types.is_integer,
    pa.types.is_floating,
    pa.types.is_decimal,
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_binary,
    pa.types.is_large_binary,
    pa.types.is_date32,
    pa.types.is_time,
    pa.types.is_timestamp,
    lambda type_: type_ == pa.month_day_nano_interval(),
)


class Incoming:
    """The batches of a statement that runs. `schema` is known once the first item has come, of whatever kind."""

    def __init__(self, running: Running) -> None:
        self._running = running
        self._messages = Messages()
        self._source = _Source()
        self._reader: ipc.RecordBatchStreamReader | None = None

    @property
    def schema(self) -> pa.Schema:
        """The columns. Raises if they are not known yet."""
        if self._reader is None:
            raise failed()
        return self._reader.schema

    def batches(self, patience: float) -> Iterator[pa.RecordBatch | None]:
        """Every batch that has rows; None about every `patience` seconds in between, for whoever looks around then.

        The bytes come from a process that ran a tenant's statement: whoever follows their offsets would be led
        anywhere. What is given out here has been validated in full. Anything odd is `RunnersUnavailable`, and the
        runner dies of it.
        """
        looked = time.monotonic()
        for piece in self._running.pieces(patience):
            if piece is not None:
                yield from self._understood(piece)
            if piece is None or time.monotonic() - looked >= patience:
                looked = time.monotonic()
                yield None
        if self._reader is None or not self._source.ended:
            raise self._refused()

    def _understood(self, piece: bytearray) -> Iterator[pa.RecordBatch]:
        try:
            self._messages.add(piece)
            while (message := self._messages.next()) is not None:
                self._source.add(message.data)
                if self._reader is None:
                    self._open()
                elif message.is_batch:
                    batch = self._reader.read_next_batch()
                    _validate(batch)
                    if batch.num_rows:
                        yield batch
                else:
                    self._source.ended = message.is_end
        except (MessageError, pa.ArrowException, ValueError, StopIteration, MemoryError):
            raise self._refused() from None

    def _open(self) -> None:
        self._reader = ipc.open_stream(pa.PythonFile(self._source, mode="r"))
        for field in self._reader.schema:
            _check(field.type)
        if len(self._reader.schema) != len(self._running.column_types):
            raise MessageError("there are not as many columns as types")

    def _refused(self) -> Exception:
        self._running.distrust()
        return failed()


class _Source:
    """What Arrow reads from: the messages that are there, never more than it can have."""

    def __init__(self) -> None:
        self._pending = bytearray()
        self.closed = self.ended = False

    def add(self, data: bytes) -> None:
        self._pending += data

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= len(self._pending):
            raise MessageError("a message needs more than it has")
        data = bytes(memoryview(self._pending)[:size])
        del self._pending[:size]
        return data

    def close(self) -> None:
        self.closed = True


def _check(type_: pa.DataType) -> None:
    """Raises for a type that DuckDB never writes: nothing downstream expects it."""
    if isinstance(type_, pa.BaseExtensionType):
        if type_.extension_name not in _EXTENSIONS:
            raise MessageError("a column has a type of its own")
        _check(type_.storage_type)
    elif pa.types.is_dictionary(type_) or pa.types.is_list(type_) or pa.types.is_fixed_size_list(type_):
        _check(type_.value_type)
    elif pa.types.is_struct(type_) or pa.types.is_union(type_) or pa.types.is_map(type_):
        for number in range(type_.num_fields):
            _check(type_.field(number).type)
    elif not any(applies(type_) for applies in _PLAIN):
        raise MessageError("a column has a type that DuckDB does not write")


def _validate(batch: pa.RecordBatch) -> None:
    for column in batch.columns:
        # As numbers: Arrow calls DuckDB's time 24:00:00 invalid.
        (column.view(pa.int64()) if pa.types.is_time64(column.type) else column).validate(full=True)
