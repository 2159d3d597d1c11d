"""What a body of bare payloads leaves to its query string: what is done with them, and which columns mean more."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from catalog.schema import Column, TableShape, parse_type
from duckmesh.kernel.errors import Invalid
from ingest.decode.batch import OP_DELETE, OP_UPSERT
from ingest.decode.refusals import listed, shown

OPS = {"insert": OP_UPSERT, "upsert": OP_UPSERT, "delete": OP_DELETE}
_TRUTHS = {"true": True, "false": False}
_LONGEST_TIMEOUT = 18  # digits
_EVENT_TIMES = frozenset({"timestamp", "date", "string"})


@dataclass(frozen=True, kw_only=True)
class BodyOptions:
    """The options of one request. The columns are named as the caller wrote them."""

    op: str = "insert"
    key_column: str | None = None
    event_time_column: str | None = None
    wait_for_visibility: bool = False
    visibility_timeout_ms: int | None = None


OPTION_NAMES = tuple(BodyOptions.__dataclass_fields__)


def read_options(given: Mapping[str, Sequence[str]]) -> BodyOptions:
    """The options that a query string gives; Invalid for a name that is unknown or repeated, or a wrong value."""
    if unknown := given.keys() - set(OPTION_NAMES):
        raise Invalid(f"Unknown query parameters: {listed(unknown)}; there are {', '.join(OPTION_NAMES)}")
    if repeated := [name for name, values in given.items() if len(values) != 1]:
        raise Invalid(f"Query parameters are given once each, not {listed(repeated)} several times")
    texts = {name: values[0] for name, values in given.items()}
    if empty := [name for name, text in texts.items() if not text]:
        raise Invalid(f"Query parameters need a value: {listed(empty)}")
    return BodyOptions(
        op=_one_of(OPS, "op", texts.get("op", "insert")),
        key_column=texts.get("key_column"),
        event_time_column=texts.get("event_time_column"),
        wait_for_visibility=_TRUTHS[_one_of(_TRUTHS, "wait_for_visibility", texts.get("wait_for_visibility", "false"))],
        visibility_timeout_ms=_milliseconds(texts.get("visibility_timeout_ms")),
    )


def _one_of(accepted: Mapping[str, object], name: str, text: str) -> str:
    if text not in accepted:
        raise Invalid(f"{name} must be {' or '.join(accepted)}, not {shown(text)!r}")
    return text


def _milliseconds(text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= _LONGEST_TIMEOUT):
        raise Invalid("visibility_timeout_ms must be a whole number of milliseconds")
    return int(text)


@dataclass(frozen=True, kw_only=True)
class BoundOptions:
    """What the options mean for one table: the operation of every record, and the columns that were named."""

    op: int
    key: Column | None
    event_time: Column | None


def bind_options(options: BodyOptions, shape: TableShape) -> BoundOptions:
    """The options for a table of this shape. In one that grows, a column that it does not have yet may still come.

    Raises `Invalid` for an operation or a column that the table does not have, and for a column of another type.
    """
    if options.op != "insert" and not shape.primary_key:
        raise Invalid(f"op={options.op} needs a table with primary_key_cols, which this one does not have")
    key = _column("key_column", options.key_column, shape)
    if key is not None and parse_type(key.type).kind == "list":
        raise Invalid(f"key_column must not be a list, which {shown(key.name)!r} is")
    event_time = _column("event_time_column", options.event_time_column, shape)
    if event_time is not None and parse_type(event_time.type).kind not in _EVENT_TIMES:
        raise Invalid(
            f"event_time_column must be a timestamp, a date or a string, and {shown(event_time.name)!r} is"
            f" {event_time.type}"
        )
    return BoundOptions(op=OPS[options.op], key=key, event_time=event_time)


def require_columns(options: BodyOptions, shape: TableShape) -> None:
    """Raise `Invalid` if an option names a column that a growing table of this shape has not got by now."""
    for option, name in (("key_column", options.key_column), ("event_time_column", options.event_time_column)):
        _column(option, name, replace(shape, grows=False))


def _column(option: str, name: str | None, shape: TableShape) -> Column | None:
    if name is None:
        return None
    column = shape.schema.column(name)
    if column is None and not shape.grows:
        raise Invalid(f"{option}: the table has no column {shown(name)!r}")
    return column
