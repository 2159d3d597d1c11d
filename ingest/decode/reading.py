"""A body read record by record, keeping what the fast way loses: digits, repeated keys, wrong characters.

Memory is bounded by one record at a time. Text that is no JSON ends the reading with an error that says where; a
record that nests too deep for the parser is stepped over, so that it can be named and the others still be read.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from duckmesh.kernel.errors import Invalid
from ingest.decode.refusals import listed
from ingest.decode.values import MAX_DEPTH, NotANumber, Repeated, describe

_LONGEST_INT = 400
_SPACE = re.compile(r"[ \t\r\n]*")
_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}]', re.DOTALL)
_MEMBERS = frozenset({"records", "wait_for_visibility", "visibility_timeout_ms"})


@dataclass(frozen=True)
class TooDeep:
    """Stands for a record that nests too deep; `column` is the payload's field in which it does, if it is one."""

    column: str | None


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) == len(pairs):
        return members
    repeated = Repeated(members)
    times = Counter(name for name, _ in pairs)
    repeated.repeated = frozenset(name for name, count in times.items() if count > 1)
    return repeated


def _integer(text: str) -> object:
    return int(text) if len(text) <= _LONGEST_INT else msgspec.Raw(text)


_decoder = json.JSONDecoder(
    object_pairs_hook=_object, parse_float=msgspec.Raw, parse_int=_integer, parse_constant=NotANumber
)


class Document:
    """One request body. Iterate over `records()` once, then read `options`."""

    def __init__(self, body: bytes, *, name: str = "The body") -> None:
        self._what = name
        self._text = body.decode("utf-8", "surrogateescape")  # bytes that are not UTF-8 become lone surrogates
        self._position = 0
        self.options: dict[str, object] = {}

    def records(self) -> Iterator[object]:
        """The records as they come; Invalid if the body is not a JSON object of the known members."""
        if not self._take("{"):
            value = self._value()
            raise Invalid(f"The body must be a JSON object, not {describe(value)}")
        seen: set[str] = set()
        while not (not seen and self._take("}")):
            name = self._name()
            if name in seen:
                raise Invalid(f"The body gives {listed([name])} more than once")
            seen.add(name)
            if name not in _MEMBERS:
                raise Invalid(f"The body has an unknown member {listed([name])}")
            if name == "records":
                yield from self._records()
            else:
                self.options[name] = self._value()
            if self._take("}"):
                break
            self._demand(",")
        self._skip_space()
        if self._position != len(self._text):
            raise self._malformed("more follows after its end")
        if "records" not in seen:
            raise Invalid("The body needs a list of records")

    def payload(self) -> object:
        """The one value that all of this is; Invalid if it is no JSON value, or more than one."""
        self._skip_space()
        start = self._position
        try:
            value = self._parse()
        except RecursionError:
            value, self._position = self._step_over(start, level=1)
        self._skip_space()
        if self._position != len(self._text):
            raise self._malformed("more follows after its end")
        return value

    def _records(self) -> Iterator[object]:
        if not self._take("["):
            raise Invalid(f"records must be a list, not {describe(self._value())}")
        if self._take("]"):
            return
        while True:
            self._skip_space()
            start = self._position
            try:
                record = self._parse()
            except RecursionError:
                record, self._position = self._step_over(start, level=2)
            yield record
            if self._take("]"):
                return
            self._demand(",")

    def _name(self) -> str:
        self._skip_space()
        if self._text[self._position : self._position + 1] != '"':
            raise self._malformed("a member's name was expected")
        name = self._value()
        assert isinstance(name, str)
        self._demand(":")
        return name

    def _value(self) -> object:
        try:
            return self._parse()
        except RecursionError:
            raise Invalid(f"The body nests deeper than {MAX_DEPTH} levels") from None

    def _parse(self) -> object:
        self._skip_space()
        try:
            value, self._position = _decoder.raw_decode(self._text, self._position)
        except json.JSONDecodeError as error:
            self._position = error.pos
            raise self._malformed(error.msg[:1].lower() + error.msg[1:]) from None
        result: object = value
        return result

    def _skip_space(self) -> None:
        match = _SPACE.match(self._text, self._position)
        assert match
        self._position = match.end()

    def _take(self, character: str) -> bool:
        self._skip_space()
        if self._text[self._position : self._position + 1] != character:
            return False
        self._position += 1
        return True

    def _demand(self, character: str) -> None:
        if not self._take(character):
            raise self._malformed(f"{character!r} was expected")

    def _malformed(self, why: str) -> Invalid:
        return Invalid(f"{self._what} is not JSON: {why}, at character {self._position}", position=self._position)

    def _step_over(self, start: int, *, level: int) -> tuple[TooDeep, int]:
        """The end of the value that begins at `start`, and where in it the nesting went too deep.

        `level` is how deep the members of the payload lie in it.
        """
        depth = 0
        name: str | None = None
        found: TooDeep | None = None
        for token in _TOKEN.finditer(self._text, start):
            text = token.group()
            if text in "[{":
                depth += 1
                if depth > MAX_DEPTH and found is None:
                    found = TooDeep(name)
            elif text in "]}":
                depth -= 1
                if depth == 0:
                    return found or TooDeep(None), token.end()
            elif depth == level:
                name = text[1:-1]
        self._position = len(self._text)
        raise self._malformed("it ends within a record")
