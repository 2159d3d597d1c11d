"""Constants of a statement, as its syntax tree holds them. Pure.

Only those are understood of which it is certain what DuckDB makes of them: literals, parameters, texts cast to moments
and UUIDs, and times that lie a fixed interval from now.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Json = object  # as in the gate: every use looks at the type first

MAX_TEXT = 4_096
_GREATEST = 2**128

_INTEGERS = frozenset({"TINYINT", "SMALLINT", "INTEGER", "BIGINT"})
_CASTS = {"DATE": "date", "TIMESTAMP": "timestamp", "TIMESTAMP WITH TIME ZONE": "timestamp", "UUID": "uuid"}
_TRUTH = {"t": True, "f": False, "true": True, "false": False}
_UNITS = {"second": 1, "minute": 60, "hour": 3_600, "day": 86_400, "week": 604_800}
_INTERVAL = re.compile(r"(\d{1,6}) *(second|minute|hour|day|week)s?", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Value:
    """A constant: its `kind`, what there is to know of it, and what it is cast to (`date`, `timestamp`, …) if it is.

    `decimal` is the unscaled integer and the scale, `param` the parameter's name, `now` and `today` the seconds after
    the moment at which the statement runs, or after the midnight before it.
    """

    kind: str
    of: Any  # a JSON value, by the kind
    cast: str = ""


def value_from_json(kind: Json, of: Any, cast: Json) -> Value:
    """The value that travelled as these three. Raises `ValueError` or `TypeError` for what is not of their shape."""
    whole = isinstance(of, int) and not isinstance(of, bool) and abs(of) < _GREATEST
    fits = {
        "bool": isinstance(of, bool),
        "int": whole,
        "float": isinstance(of, float) and math.isfinite(of),
        "text": isinstance(of, str) and len(of) <= MAX_TEXT,
        "param": isinstance(of, str),
        "now": whole,
        "today": whole,
        "decimal": isinstance(of, list) and len(of) == 2 and abs(int(of[0])) < _GREATEST and int(of[1]) in range(39),
    }
    if not fits.get(text_of(kind)):
        raise ValueError("no value of ours")
    return Value(kind=text_of(kind), of=(int(of[0]), int(of[1])) if kind == "decimal" else of, cast=text_of(cast))


def value_of(node: Mapping[str, Json]) -> Value | None:
    """The constant that an expression is, or None if it is none that is understood."""
    kind = node.get("type")
    if kind == "VALUE_PARAMETER":
        return Value(kind="param", of=str(node.get("identifier")))
    if kind == "VALUE_CONSTANT":
        return _constant(mapping(node.get("value")))
    if kind == "OPERATOR_CAST" and not node.get("try_cast"):
        return _cast(mapping(node.get("child")), str(mapping(node.get("cast_type")).get("id")))
    if kind == "FUNCTION":
        return _moment(node)
    return None


def _constant(held: Mapping[str, Json]) -> Value | None:
    type_, value = mapping(held.get("type")), held.get("value")
    id_ = type_.get("id")
    if held.get("is_null"):
        return None
    if isinstance(value, bool):
        return Value(kind="bool", of=value) if id_ == "BOOLEAN" else None
    if isinstance(value, int) and id_ in _INTEGERS:
        return Value(kind="int", of=value)
    if isinstance(value, int) and id_ == "DECIMAL":
        scale = mapping(type_.get("type_info")).get("scale")
        return Value(kind="decimal", of=(value, scale)) if isinstance(scale, int) else None
    if isinstance(value, float) and id_ == "DOUBLE" and math.isfinite(value):
        return Value(kind="float", of=value)
    if isinstance(value, str) and id_ == "VARCHAR" and len(value) <= MAX_TEXT:
        return Value(kind="text", of=value)
    return None


def _cast(child: Mapping[str, Json], to: str) -> Value | None:
    value = value_of(child)
    if value is None or value.cast:
        return None
    if to == "BOOLEAN" and value.kind == "text":
        return Value(kind="bool", of=_TRUTH[value.of]) if value.of in _TRUTH else None
    if to in _CASTS and value.kind in ("text", "param"):
        return Value(kind=value.kind, of=value.of, cast=_CASTS[to])
    if to in ("TIMESTAMP", "TIMESTAMP WITH TIME ZONE") and value.kind in ("now", "today"):
        return value
    return value if to in ("INTEGER", "BIGINT") and value.kind == "int" else None


def _moment(node: Mapping[str, Json]) -> Value | None:
    """The moment of the query or its day, or one that lies a fixed time from it."""
    name, children = str(node.get("function_name")), [mapping(child) for child in items(node.get("children"))]
    if not children:
        kind = {"now": "now", "get_current_timestamp": "now", "today": "today"}.get(name)
        return Value(kind=kind, of=0) if kind else None
    if name in ("+", "-") and len(children) == 2:
        base, seconds = value_of(children[0]), _seconds(children[1])
        days = value_of(children[1])
        if base is not None and base.kind == "today" and days is not None and days.kind == "int" and not base.of:
            seconds = days.of * 86_400
        if base is not None and base.kind in ("now", "today") and not base.cast and seconds is not None:
            return Value(kind=base.kind, of=base.of + (seconds if name == "+" else -seconds))
    return None


def _seconds(node: Mapping[str, Json]) -> int | None:
    """The length of an interval that has one."""
    children = items(node.get("children"))
    if node.get("type") == "OPERATOR_CAST" and mapping(node.get("cast_type")).get("id") == "INTERVAL":
        held = mapping(mapping(node.get("child")).get("value")).get("value")
        match = _INTERVAL.fullmatch(held) if isinstance(held, str) else None
        return int(match[1]) * _UNITS[match[2].lower()] if match else None
    name = str(node.get("function_name"))
    unit = _UNITS.get(name.removeprefix("to_").removesuffix("s"))
    if not name.startswith("to_") or unit is None or len(children) != 1:
        return None
    held = _unwrapped(mapping(children[0]))
    return held * unit if held is not None else None


def _unwrapped(node: Mapping[str, Json]) -> int | None:
    """The whole number in `CAST(trunc(CAST(7 AS DOUBLE)) AS INTEGER)`, which is what INTERVAL 7 DAY is."""
    for _ in range(4):
        children = items(node.get("children"))
        if node.get("type") == "OPERATOR_CAST":
            node = mapping(node.get("child"))
        elif node.get("function_name") == "trunc" and len(children) == 1:
            node = mapping(children[0])
    value = _constant(mapping(node.get("value"))) if node.get("type") == "VALUE_CONSTANT" else None
    return value.of if value is not None and value.kind == "int" and abs(value.of) < 10**6 else None


def mapping(value: Json) -> Mapping[str, Json]:
    """`value` if it is an object; else an empty one."""
    return value if isinstance(value, dict) else {}


def items(value: Json) -> list[Json]:
    """`value` if it is a list; else an empty one."""
    return value if isinstance(value, list) else []


def text_of(value: Json) -> str:
    """`value`, which is a text. Raises `TypeError`."""
    if not isinstance(value, str):
        raise TypeError("a text was expected")
    return value
