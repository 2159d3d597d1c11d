"""Texts to what JSON would have said in their place, so that both become the same values or are refused alike."""

from collections.abc import Sequence
from functools import lru_cache
from types import GenericAlias
from typing import Any

import msgspec

from catalog.schema import LogicalType
from duckmesh.kernel.errors import Invalid
from ingest.decode.numbers import is_number
from ingest.decode.plan import PlannedColumn, value_annotation
from ingest.decode.reading import Document, TooDeep
from ingest.decode.refusals import Doubt, ValueRefused
from ingest.decode.values import MAX_DEPTH, NotANumber, string

FLOATS = frozenset({"float32", "float64"})
NUMBERS = FLOATS | {"int32", "int64"}
_TRUTHS = {"true": True, "false": False}
_NOT_NUMBERS = frozenset({"NaN", "Infinity", "-Infinity"})
_LONGEST_INT = 400
_WHITE = " \t\r\n"


def cell_value(text: str | None, column: PlannedColumn) -> object:
    """The exact way: one text. A ValueRefused in the place of a value says why there is none."""
    if text is None:
        return None
    if "\0" in text:
        return ValueRefused("holds a NUL, which no CSV has")
    try:
        string(text)
    except ValueRefused as refused:
        return refused
    if column.type.kind in ("list", "json"):
        return _json(text)
    if column.leaf == "bool":
        return _TRUTHS.get(text, text)
    if column.leaf not in NUMBERS:
        return text
    if text in _NOT_NUMBERS:
        return NotANumber(text)
    if not is_number(text):
        return text
    whole = text.removeprefix("-").isdecimal() and len(text) <= _LONGEST_INT
    return int(text) if whole else msgspec.Raw(text)


def _json(text: str) -> object:
    try:
        value = Document(text.encode("utf-8", "surrogateescape"), name="its text").payload()
    except Invalid as invalid:
        return ValueRefused(f"is no JSON: {invalid.message}")
    return ValueRefused(f"nests deeper than {MAX_DEPTH} levels") if isinstance(value, TooDeep) else value


def column_values(texts: Sequence[str | None], column: PlannedColumn) -> Sequence[object]:
    """The fast way: all texts of a column, none of which holds a NUL; Doubt if one may be wrong."""
    if column.type.kind in ("list", "json"):
        return _each_json(texts, column)
    if column.leaf in NUMBERS:
        return _numbers(texts, column)
    if column.leaf == "bool":
        values = [None if text is None else _TRUTHS.get(text, text) for text in texts]
        if any(type(value) is str for value in values):
            raise Doubt
        return values
    return texts


def number_list(texts: Sequence[str | None]) -> str:
    """The numbers as a list in JSON."""
    return "[" + ",".join(["null" if text is None else text for text in texts]) + "]"


def _numbers(texts: Sequence[str | None], column: PlannedColumn) -> Sequence[object]:
    listed = number_list(texts)
    try:
        values: list[object] = _list_decoder(column.type).decode(listed)
    except (msgspec.MsgspecError, UnicodeEncodeError):
        raise Doubt from None
    # A text that JSON would take for more or less than a number: `1,2`, `null`, ` 1`.
    if len(values) != len(texts) or values.count(None) != texts.count(None) or any(c in listed for c in _WHITE):
        raise Doubt
    return values


def _each_json(texts: Sequence[str | None], column: PlannedColumn) -> Sequence[object]:
    if column.leaf == "json":  # in which only the exact way finds repeated keys
        values = [cell_value(text, column) for text in texts]
        if any(isinstance(value, ValueRefused) for value in values):
            raise Doubt
        return values
    decode = _value_decoder(column.type).decode
    try:
        return [None if text is None else decode(text) for text in texts]
    except (msgspec.MsgspecError, UnicodeEncodeError, RecursionError):
        raise Doubt from None


@lru_cache(maxsize=256)
def _list_decoder(type_: LogicalType) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(GenericAlias(list, (value_annotation(type_) | None,)), float_hook=msgspec.Raw)


@lru_cache(maxsize=256)
def _value_decoder(type_: LogicalType) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(value_annotation(type_) | None, float_hook=msgspec.Raw)
