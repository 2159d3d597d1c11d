"""The columns that an Arrow stream or a Parquet file brings to a growing table, each of the body's own type.

Rows stay as the body has them: an envelope's frames name their columns' types, and are shown in the table's when they
are written. So a body is hashed and its keys are spelled alike, whatever the table has become since.
"""

from dataclasses import replace

import pyarrow as pa

from catalog.schema import Column, TableSchema, TableShape
from ingest.decode.columnar.types import logical_type_of
from ingest.decode.growth import Growth, why_no_column
from ingest.decode.number_text import WIDE, all_exact_in_float64
from ingest.decode.refusals import Refusals, ValueRefused


class BroughtColumns:
    """What a body's columns make of a table; `shape` is that of the body's rows: the table's, unless it grows."""

    def __init__(self, shape: TableShape, schema: pa.Schema, *, max_columns: int, refusals: Refusals) -> None:
        self._growth = Growth(shape, max_columns=max_columns)
        self.shape = self._rows_shape(shape, schema, refusals) if shape.grows else shape

    @property
    def grown(self) -> TableShape:
        """The table's shape that holds what was seen: the very one it was given if nothing changed."""
        return self._growth.shape

    def see(self, rows: pa.RecordBatch) -> None:
        """The table's columns hold these rows too, which are decoded for `shape`."""
        if not self.shape.grows:
            return
        for column, array in zip(self.shape.schema.columns, rows.columns, strict=True):
            if array.null_count < len(array):
                wide = column.type == "int64" and not all_exact_in_float64(array)
                self._growth.see_kind(column.name, WIDE if wide else (column.type, column.holds))

    def _rows_shape(self, shape: TableShape, schema: pa.Schema, refusals: Refusals) -> TableShape:
        columns: dict[str, Column] = {}
        for field in schema:
            if pa.types.is_null(field.type) or field.name.lower() in columns:
                continue
            try:
                columns[field.name.lower()] = self._column(field)
            except ValueRefused as refused:
                refusals.add(index=0, column=field.name, reason=str(refused))
        # Rows need some column to be counted by.
        known = columns.values() or shape.schema.columns[:1]
        if not known and not refusals.count:
            reason = "the table has no columns yet, and no field of the request is one"
            refusals.add(index=0, column=None, reason=reason)
        return replace(shape, schema=TableSchema(version=shape.schema.version, columns=tuple(known)))

    def _column(self, field: pa.Field) -> Column:
        type_ = logical_type_of(field.type)
        if self._growth.column(field.name) is None:
            self._growth.see_kind(field.name, (type_, ""))
        column = self._growth.column(field.name)
        if column is None:
            raise ValueRefused(why_no_column(field.name))
        return replace(column, type=type_, holds="")
