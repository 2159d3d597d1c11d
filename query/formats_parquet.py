"""An answer as a Parquet file, written a row group at a time.

Types stay what they are, where Parquet has them. An interval, a union, and a struct without names for its fields are
written as text, in the form that the JSON answer has, and so is a column that holds one of them somewhere inside.
"""

from collections.abc import Sequence

import msgspec
import pyarrow as pa
from pyarrow import parquet

from query.results import values
from query.sink import Sink, distinct

GROUP_ROWS = 122_880  # as DuckDB has it
GROUP_BYTES = 16 * 2**20
_encoder = msgspec.json.Encoder()


class ParquetWriter:
    """Holds at most a row group. Without `end` there is no footer, and no reader takes the bytes for a file."""

    def __init__(self, schema: pa.Schema, kinds: Sequence[str]) -> None:
        self._kinds = kinds
        self._as_text = [_needs_text(field.type) for field in schema]
        names = distinct(schema.names)
        self._schema = pa.schema(
            pa.field(name, pa.string() if text else _plain(field.type))
            for name, field, text in zip(names, schema, self._as_text, strict=True)
        )
        self._sink = Sink()
        # A NaN in the statistics of a column of floats makes readers pass over rows that they ask for.
        safe = [field.name for field in self._schema if _has_safe_statistics(field.type)]
        self._writer = parquet.ParquetWriter(
            pa.PythonFile(self._sink, mode="w"),
            self._schema,
            compression="zstd",
            compression_level=1,
            write_statistics=safe or False,
            store_schema=True,
        )
        self._held: list[pa.RecordBatch] = []
        self._rows = self._bytes = 0

    def begin(self) -> bytes:
        return self._sink.take()

    def rows(self, batch: pa.RecordBatch) -> bytes:
        batch = pa.RecordBatch.from_arrays(
            [
                self._text(column, kind) if text else _plain_array(column)
                for column, kind, text in zip(batch.columns, self._kinds, self._as_text, strict=True)
            ],
            schema=self._schema,
        )
        self._held.append(batch)
        self._rows += batch.num_rows
        self._bytes += batch.nbytes
        if self._rows >= GROUP_ROWS or self._bytes >= GROUP_BYTES:
            self._write_group()
        return self._sink.take()

    def end(self) -> bytes:
        if self._held:
            self._write_group()
        self._writer.close()
        return self._sink.take()

    def broken(self, reason: str) -> bytes:
        return reason.encode()

    def _write_group(self) -> None:
        table = pa.Table.from_batches(self._held, schema=self._schema)
        self._writer.write_table(table, row_group_size=self._rows)
        self._held, self._rows, self._bytes = [], 0, 0

    @staticmethod
    def _text(column: pa.Array, kind: str) -> pa.Array:
        texts = [
            value if value is None or isinstance(value, str) else _encoder.encode(value).decode()
            for value in values(column, kind)
        ]
        return pa.array(texts, pa.string())


def _needs_text(type_: pa.DataType) -> bool:
    if isinstance(type_, pa.BaseExtensionType):
        return _needs_text(type_.storage_type)
    if type_ == pa.month_day_nano_interval() or pa.types.is_union(type_):
        return True
    if pa.types.is_struct(type_) and not all(field.name for field in type_):
        return True
    return any(_needs_text(type_.field(number).type) for number in range(type_.num_fields))


def _plain(type_: pa.DataType) -> pa.DataType:
    """The type as Parquet has it: enums are text."""
    return type_.value_type if pa.types.is_dictionary(type_) else type_


def _plain_array(column: pa.Array) -> pa.Array:
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _has_safe_statistics(type_: pa.DataType) -> bool:
    return not pa.types.is_nested(type_) and not pa.types.is_floating(type_)
