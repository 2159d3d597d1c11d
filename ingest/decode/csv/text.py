"""CSV as text, after RFC 4180: where its records end, and what fields a record has.

Fields are separated by commas. A field may stand in double quotes, and must if it holds a comma, a line break or a
quote, which is doubled there. A quoted field is a string, also an empty one; an unquoted empty field is null. Lines
end with LF or CRLF, the last one may end with the body, and empty lines are skipped.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO

from ingest.decode.streamed import CHUNK_BYTES

BOM = b"\xef\xbb\xbf"
_FIELD = re.compile(r'"((?:[^"]|"")*+)"(?=[,\r\n]|\Z)|([^",\r\n]*+)(?=[,\r\n]|\Z)')
_QUOTED = re.compile(rb'(?:(?<=[,\n])|\A)"(?:[^"]|"")*+"(?=[,\r\n]|\Z)')


class Broken(Exception):
    """Quotes or line breaks are wrong, and where the next record begins is not known; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """Whole records, and the number of the line in which the first begins."""

    data: bytes
    line: int


@dataclass(frozen=True, kw_only=True)
class Record:
    """One record. `problem` is that it is broken, and then it is the last; `end` is where the next one begins."""

    fields: tuple[str | None, ...]
    line: int
    end: int
    size_bytes: int = 0
    problem: str | None = None


def blocks(source: BinaryIO, *, longest: int) -> Iterator[Block]:
    """All of the text in blocks of whole records. One that does not end within `longest` bytes is the last block."""
    rest, line = b"", 1
    fresh = source.read(CHUNK_BYTES).removeprefix(BOM) or source.read(CHUNK_BYTES)
    while fresh and len(rest) <= longest:
        data = rest + fresh
        end = _last_end(data, since=len(rest))
        if end:
            yield Block(data=data[:end], line=line)
            line += data.count(b"\n", 0, end)
        rest = data[end:]
        fresh = source.read(CHUNK_BYTES)
    if rest:
        yield Block(data=rest, line=line)


def _last_end(data: bytes, *, since: int) -> int:
    """Where the last record of the data ends, or 0: behind a line break before which as many quotes open as close.

    No record ends before `since`.
    """
    end = len(data)
    quotes = data.count(b'"')
    while (found := data.rfind(b"\n", since, end)) >= 0:
        quotes -= data.count(b'"', found, end)
        if quotes % 2 == 0:
            return found + 1
        end = max(data.rfind(b'"', since, found), since)  # what lies between is quoted, line breaks and all
        quotes -= data.count(b'"', end, found)
    return 0


def is_well_quoted(data: bytes) -> bool:
    """Whether every quote opens or closes a field or is a doubled one within, and CR stands only before LF."""
    if data.count(b"\r") != data.count(b"\r\n"):
        return False
    return b'"' not in data or b'"' not in _QUOTED.sub(b"", data)


def records(block: Block) -> Iterator[Record]:
    """The records of the block; bytes that are not UTF-8 are lone surrogates in them."""
    text = block.data.decode("utf-8", "surrogateescape")
    position, line = 0, block.line
    while position < len(text):
        record = _record(text, position, line)
        if record.problem is not None or record.fields != (None,):
            raw = text[position : record.end].encode("utf-8", "surrogateescape")
            yield replace(record, size_bytes=len(raw))
        line += text.count("\n", position, record.end)
        position = record.end


def _record(text: str, position: int, line: int) -> Record:
    fields: list[str | None] = []
    while True:
        match = _FIELD.match(text, position)
        if match is None:
            return _broken(text, position, fields, line)
        quoted, plain = match.groups()
        fields.append((plain or None) if quoted is None else quoted.replace('""', '"'))
        position = match.end()
        separator = text[position : position + 2]
        if separator[:1] == ",":
            position += 1
        elif separator[:1] != "\r" or separator == "\r\n":
            return Record(fields=tuple(fields), line=line, end=position + (2 if separator == "\r\n" else 1))
        else:
            problem = "holds a carriage return that ends no line; a field that holds one stands in quotes"
            return Record(fields=tuple(fields), line=line, end=len(text), problem=problem)


def _broken(text: str, position: int, fields: list[str | None], line: int) -> Record:
    if text[position] != '"':
        problem = "holds a quote in a field that does not begin with one"
    elif re.compile(r'"(?:[^"]|"")*+"').match(text, position):
        problem = "holds a quoted field that goes on behind its closing quote"
    else:
        problem = "holds a quote that is never closed"
    return Record(fields=tuple(fields), line=line, end=len(text), problem=f"field {len(fields) + 1} {problem}")
