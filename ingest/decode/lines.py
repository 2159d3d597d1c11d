"""NDJSON: a payload a line. White lines are skipped, and a record's index counts the others."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import repeat
from typing import BinaryIO

from catalog.schema import TableShape
from duckmesh.kernel.errors import Invalid
from ingest.decode.batch import DecodedBatch, DecodeLimits
from ingest.decode.exact import RowReader
from ingest.decode.fast import decode_payloads
from ingest.decode.options import BodyOptions
from ingest.decode.reading import Document
from ingest.decode.refusals import Doubt, Refusals
from ingest.decode.rows import Rows
from ingest.decode.spool import Spool
from ingest.decode.streamed import CHUNK_BYTES, Target, decode_streamed, with_options

MEDIA_TYPE = "application/x-ndjson"
BOM = b"\xef\xbb\xbf"
_WHITE = b" \t\r"


def decode_lines(
    body: Spool, *, shape: TableShape, options: BodyOptions, limits: DecodeLimits, request_key: str | None
) -> DecodedBatch:
    """The payloads of the lines as one request; InvalidRecord names the lines that are refused."""
    return decode_streamed(
        body,
        media_type=MEDIA_TYPE,
        shape=shape,
        options=options,
        limits=limits,
        request_key=request_key,
        read=_read,
    )


@dataclass(frozen=True, kw_only=True)
class Lines:
    """Lines that are not white, and their numbers, from 1. The text of one that is too long to be held is None."""

    texts: Sequence[bytes | None]
    numbers: Sequence[int]

    def part(self, start: int, end: int) -> "Lines":
        """Some of the lines."""
        return Lines(texts=self.texts[start:end], numbers=self.numbers[start:end])


def _read(source: BinaryIO, target: Target, refusals: Refusals) -> Iterator[Rows]:
    index = 0
    for lines in _chunks(source, longest=target.max_line_bytes, target=target):
        yield from rows_of_lines(lines, target, refusals, first_index=index)
        if refusals.full:
            return
        index += len(lines.texts)


def rows_of_lines(lines: Lines, target: Target, refusals: Refusals, *, first_index: int) -> Iterator[Rows]:
    """The rows of the lines; none if the refusals name a problem, in these or in earlier ones."""
    if not refusals.count:
        try:
            yield _fast(lines, target)
            return
        except Doubt:
            pass
    grew = target.grow(lambda: _payloads(lines, target))
    for start in range(0, len(lines.texts), target.most_rows):
        part = lines.part(start, start + target.most_rows)
        rows = _rows(part, target, refusals, first_index=first_index + start, grew=grew)
        if rows is not None:
            yield rows
        if refusals.full:
            return


def _rows(lines: Lines, target: Target, refusals: Refusals, *, first_index: int, grew: bool) -> Rows | None:
    if grew and not refusals.count:
        try:
            return _fast(lines, target)
        except Doubt:
            pass
    reader = RowReader(target.plan, refusals)
    for index, (text, number) in enumerate(zip(lines.texts, lines.numbers, strict=True), start=first_index):
        if text is None or len(text) > target.max_line_bytes:
            reason = f"the line is longer than {target.max_line_bytes} bytes"
            refusals.add(index=index, line=number, column=None, reason=reason)
        else:
            try:
                payload = Document(text, name="The line").payload()
            except Invalid as invalid:
                refusals.add(index=index, line=number, column=None, reason=invalid.message)
            else:
                reader.add_payload(index, payload, line=number, bound=target.bound)
        if refusals.full:
            break
    return None if refusals.count else reader.rows()


def _payloads(lines: Lines, target: Target) -> Iterator[object]:
    """The payloads of those lines that hold one."""
    for text in lines.texts:
        if text is not None and len(text) <= target.max_line_bytes:
            with suppress(Invalid):
                yield Document(text, name="The line").payload()


def _fast(lines: Lines, target: Target) -> Rows:
    texts = [text for text in lines.texts if text is not None]
    if len(texts) < len(lines.texts) or max(map(len, texts)) > target.max_line_bytes:
        raise Doubt
    # A comma between two lines makes sure that no value goes on in the next line, and the end of the line stays, so
    # that no string does; then as many values as lines are one value a line.
    listed = b"[" + b",\n".join(texts) + b"]"
    rows = decode_payloads(listed, target.plan, count=len(texts), op=target.bound.op, hash_all=target.hash_all)
    return with_options(rows, target)


def _chunks(source: BinaryIO, *, longest: int, target: Target) -> Iterator[Lines]:
    """All lines that are not white, at most as many at a time as the target takes by then."""
    for number, block in _blocks(source, longest=longest):
        if block is None:
            yield Lines(texts=[None], numbers=[number])
            continue
        texts = block.split(b"\n")
        if not texts[-1]:
            texts.pop()
        numbers: Sequence[int] = range(number, number + len(texts))
        if not all(map(bytes.strip, texts, repeat(_WHITE))):
            numbers = [at for at, text in zip(numbers, texts, strict=True) if text.strip(_WHITE)]
            texts = [text for text in texts if text.strip(_WHITE)]
        lines, start = Lines(texts=texts, numbers=numbers), 0
        while start < len(texts):
            most = target.most_rows
            yield lines.part(start, start + most)
            start += most


def _blocks(source: BinaryIO, *, longest: int) -> Iterator[tuple[int, bytes | None]]:
    """Whole lines, and the number of the first of them; None in the place of one that is too long to be held."""
    number, rest, block = 1, b"", source.read(CHUNK_BYTES).removeprefix(BOM)
    while block or (block := source.read(CHUNK_BYTES)):
        end = block.rfind(b"\n") + 1
        if end:
            yield number, rest + block[:end]
            number += 1 + block.count(b"\n", 0, end - 1)
            rest, block = block[end:], b""
            continue
        rest, block = rest + block, b""
        if len(rest) > longest:
            yield number, None
            number += 1
            rest, block = b"", _after_line(source)
    if rest:
        yield number, rest


def _after_line(source: BinaryIO) -> bytes:
    """What was read of the lines behind the one that is being read."""
    while block := source.read(CHUNK_BYTES):
        if (end := block.find(b"\n")) >= 0:
            return block[end + 1 :]
    return b""
