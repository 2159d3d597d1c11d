"""What decoding needs to know about a table, worked out once per schema version and kept."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Literal

import msgspec
import pyarrow as pa
from msgspec import UNSET, Meta, UnsetType

from catalog.schema import Column, LogicalType, TableSchema, TableShape, arrow_schema, arrow_type, parse_type
from ingest.decode.growing_values import growing_converter
from ingest.decode.values import Converter, converter

LONGEST_KEY = 512

_SIMPLE: dict[str, Any] = {  # annotations, which have no common type
    "bool": bool,
    "int32": Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)],
    "int64": Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)],
    "float32": int | float,
    "float64": int | float,
    "decimal": Any,
    "json": Any,
}
_BY_VALUE = frozenset({"decimal", "binary", "json"})
_TEXTS = frozenset({"date", "timestamp", "uuid"})  # whole columns of them convert at once, lists of them do not
_KEY = Annotated[str, Meta(min_length=1, max_length=LONGEST_KEY)]


@dataclass(frozen=True, kw_only=True)
class PlannedColumn:
    """A column with what its values need.

    `leaf` is the kind of the innermost values: what a list is a list of. `by_value`: Arrow cannot convert a whole
    column of them exactly, so each is converted on its own. `holds` is a growing table's column's.
    """

    name: str
    attribute: str
    type: LogicalType
    arrow: pa.DataType
    convert: Converter
    nullable: bool
    in_key: bool

    leaf: str
    by_value: bool
    holds: str = ""


@dataclass(frozen=True, kw_only=True)
class TablePlan:
    """How the bodies for one version of a table are decoded.

    `columns` are in the table's order, `sorted_columns` in the order of their names, which is the order of the
    fields of a decoded payload and of the canonical input.
    """

    keyed: bool
    grows: bool
    columns: tuple[PlannedColumn, ...]
    sorted_columns: tuple[PlannedColumn, ...]
    by_folded_name: dict[str, PlannedColumn]
    arrow: pa.Schema
    decode: Callable[[bytes], Any]  # a document of the table's own struct type, made at run time
    payload: Any  # the struct type of one payload, whose fields are the attributes of the columns
    decode_payloads: Callable[[bytes], list[Any]]
    encode: Callable[[object], bytes]


def plan_of(shape: TableShape) -> TablePlan:
    """The plan of a table of this shape."""
    return plan_for(shape.schema, shape.primary_key, shape.grows)


@lru_cache(maxsize=256)
def plan_for(schema: TableSchema, primary_key: tuple[str, ...], grows: bool = False) -> TablePlan:
    """The plan of a table with these columns and this primary key, which is empty for a table without one."""
    key = {name.lower() for name in primary_key}
    columns = tuple(_planned(column, position, key, grows) for position, column in enumerate(schema.columns))
    by_name = tuple(sorted(columns, key=lambda column: column.name))
    keyed = bool(primary_key)
    # Objects inside JSON values are sorted too; the struct's own fields already are.
    encoder = msgspec.json.Encoder(order="sorted" if any(c.leaf == "json" for c in columns) else None)
    payload = _payload(by_name, keyed=keyed)
    payloads = list[payload]  # type: ignore[valid-type]  # a type that exists at run time only
    return TablePlan(
        keyed=keyed,
        grows=grows,
        columns=columns,
        sorted_columns=by_name,
        by_folded_name={column.name.lower(): column for column in columns},
        arrow=arrow_schema(schema, keyed=keyed),
        decode=msgspec.json.Decoder(_document(payload, keyed=keyed), float_hook=msgspec.Raw).decode,
        payload=payload,
        decode_payloads=msgspec.json.Decoder(payloads, float_hook=msgspec.Raw).decode,
        encode=encoder.encode,
    )


def _planned(column: Column, position: int, key: set[str], grows: bool) -> PlannedColumn:
    type_ = parse_type(column.type)
    leaf = type_
    while leaf.item is not None:
        leaf = leaf.item
    in_key = column.name.lower() in key
    return PlannedColumn(
        name=column.name,
        attribute=f"c{position}",
        type=type_,
        arrow=arrow_type(column.type),
        convert=growing_converter(type_, column.holds) if grows else converter(type_),
        nullable=column.nullable and not in_key,
        in_key=in_key,
        leaf=leaf.kind,
        by_value=leaf.kind in _BY_VALUE or column.holds == "number" or (type_ is not leaf and leaf.kind in _TEXTS),
        holds=column.holds,
    )


def _payload(columns: tuple[PlannedColumn, ...], *, keyed: bool) -> Any:
    """The struct type of a payload; msgspec checks in C what a struct type can say."""
    fields = [_field(column, keyed=keyed) for column in columns]
    names = {column.attribute: column.name for column in columns}
    return msgspec.defstruct("Payload", fields, rename=names, forbid_unknown_fields=True, kw_only=True, gc=False)


def _document(payload: Any, *, keyed: bool) -> Any:
    """The struct type of a whole request."""
    op: Any = Literal["insert", "upsert", "delete"] if keyed else Literal["insert"]
    record = msgspec.defstruct(
        "Record",
        [
            ("payload", payload),
            ("idempotency_key", _KEY | None | UnsetType, UNSET),
            ("op", op | UnsetType, UNSET),
            ("event_time", str | None | UnsetType, UNSET),
        ],
        forbid_unknown_fields=True,
        gc=False,
    )
    return msgspec.defstruct(
        "Document",
        [
            ("records", list[record]),  # type: ignore[valid-type]  # a type that exists at run time only
            ("wait_for_visibility", bool | UnsetType, UNSET),
            ("visibility_timeout_ms", int | UnsetType, UNSET),
        ],
        forbid_unknown_fields=True,
    )


def _field(column: PlannedColumn, *, keyed: bool) -> Any:
    # Deletes on a keyed table leave out what is not in the key, so there only the key can be demanded here.
    annotation = Any if column.holds == "number" else value_annotation(column.type)
    if column.in_key or not (column.nullable or keyed):
        return (column.attribute, annotation)
    return (column.attribute, annotation if annotation is Any else annotation | None | UnsetType, UNSET)


def value_annotation(type_: LogicalType) -> Any:
    """What msgspec decodes a value of the type as, null aside."""
    if type_.item is not None:
        item = value_annotation(type_.item)
        return list[item if item is Any else item | None]  # type: ignore[misc]  # a type known at run time only
    return _SIMPLE.get(type_.kind, str)
