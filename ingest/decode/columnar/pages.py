"""A Parquet file looked over before any of it is decoded: how much memory its pages will ask for.

A page says in its head what it comes to, and the reader believes it and asks for the memory, whatever the footer
says; here it is added up first. The footer is read here too, because what pyarrow tells of a damaged one ends the
process instead of raising an error.
"""

import struct
from dataclasses import dataclass
from typing import BinaryIO

from duckmesh.kernel.errors import Invalid
from ingest.decode.columnar.thrift import Compact, Damaged, Fields, inner, natural, structs

_MAGIC, _ENCRYPTED = b"PAR1", b"PARE"
_TAIL = struct.Struct("<I4s")
_LONGEST_FOOTER = 8 * 2**20
_LONGEST_HEAD = 64 * 2**10

_DICTIONARIES = frozenset({2, 8})  # encodings
_PREFIXES = 7
_REPEATED = 2
_TEXT = 6


@dataclass(frozen=True, kw_only=True)
class Leaf:
    """A column that values are stored in: a table's own column, or one of those within it."""

    path: str
    is_text: bool
    is_repeated: bool
    width: int


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """The values of a leaf in one row group, and what their pages come to.

    Values may be stored once and meant many times: in `has_dictionary` by their numbers, in `has_prefixes` by how much
    of the value before them they repeat.
    """

    leaf: Leaf
    plain_bytes: int
    largest_page: int
    values: int
    has_dictionary: bool
    has_prefixes: bool


@dataclass(frozen=True, kw_only=True)
class RowGroup:
    """The chunks of one row group."""

    rows: int
    chunks: tuple[Chunk, ...]


def row_groups(source: BinaryIO) -> list[RowGroup]:
    """The row groups of a file; `Invalid` if it is no Parquet file, or encrypted, or damaged."""
    try:
        footer = _footer(source)
        leaves = _leaves(structs(footer, 2))
        return [_row_group(source, group, leaves) for group in structs(footer, 4)]
    except Damaged:
        raise Invalid("The body is not a Parquet file, or it is damaged or cut off") from None


def _footer(source: BinaryIO) -> Fields:
    size = source.seek(0, 2)
    if size < len(_MAGIC) + _TAIL.size:
        raise Damaged
    source.seek(size - _TAIL.size)
    length, magic = _TAIL.unpack(source.read(_TAIL.size))
    if magic == _ENCRYPTED:
        raise Invalid("The body is an encrypted Parquet file, to which nobody here has a key")
    if magic != _MAGIC or length > min(_LONGEST_FOOTER, size - _TAIL.size):
        raise Damaged
    source.seek(size - _TAIL.size - length)
    return Compact(source.read(length)).struct()


def _leaves(elements: list[Fields]) -> list[Leaf]:
    """The leaves of a schema, which is a tree whose nodes say how many of those that follow are their children."""
    leaves: list[Leaf] = []
    open_: list[tuple[int, str, bool]] = []  # children that are still to come, path, repeated
    for position, element in enumerate(elements):
        name = element.get(4)
        if not isinstance(name, bytes):
            raise Damaged
        path, repeated = name.decode("utf-8", "replace"), natural(element, 3) == _REPEATED
        if position:
            if not open_:
                raise Damaged
            left, parent, parent_repeated = open_.pop()
            open_ += [(left - 1, parent, parent_repeated)] if left > 1 else []
            path, repeated = (f"{parent}.{path}" if parent else path), repeated or parent_repeated
        if children := natural(element, 5):
            open_.append((children, path if position else "", repeated))
        elif position:
            kind, width = natural(element, 1), natural(element, 2)
            leaves.append(Leaf(path=path, is_text=kind == _TEXT, is_repeated=repeated, width=width))
    return leaves


def _row_group(source: BinaryIO, group: Fields, leaves: list[Leaf]) -> RowGroup:
    chunks = [inner(chunk, 3) for chunk in structs(group, 1)]
    if len(chunks) != len(leaves):
        raise Damaged
    return RowGroup(
        rows=natural(group, 3),
        # Of a chunk without values the reader opens no page.
        chunks=tuple(_chunk(source, c, leaf) for c, leaf in zip(chunks, leaves, strict=True) if natural(c, 5)),
    )


def _chunk(source: BinaryIO, chunk: Fields, leaf: Leaf) -> Chunk:
    position = natural(chunk, 9)
    if dictionary := natural(chunk, 11):
        position = min(position, dictionary)
    end = position + natural(chunk, 7)
    plain = largest = values = 0
    encodings: set[int] = set()
    while position < end:
        source.seek(position)
        compact = Compact(source.read(min(_LONGEST_HEAD, end - position)))
        head = compact.struct()
        size = natural(head, 2)
        position += compact.position + natural(head, 3)
        plain, largest = plain + size, max(largest, size)
        if 5 in head or 8 in head:
            data = inner(head, 5 if 5 in head else 8)
            values += natural(data, 1)
            encodings.add(natural(data, 2 if 5 in head else 4))
    if position != end:
        raise Damaged
    return Chunk(
        leaf=leaf,
        plain_bytes=plain,
        largest_page=largest,
        values=values,
        has_dictionary=not encodings.isdisjoint(_DICTIONARIES),
        has_prefixes=_PREFIXES in encodings,
    )
