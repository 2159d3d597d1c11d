"""Problems of records, collected so that one answer names them all."""

from collections.abc import Iterable

from duckmesh.kernel.errors import JSON
from ingest.errors import InvalidRecord

MAX_NAMED = 100
_LONGEST_NAME = 100
_LONGEST_REASON = 300


class ValueRefused(Exception):
    """A value that cannot be taken as it is; the message says why, without the value's column."""


class Doubt(Exception):
    """The fast way cannot be sure; the exact way must decide."""


class Refusals:
    """Every problem found is counted; the first hundred are kept to be named."""

    def __init__(self) -> None:
        self.count = 0
        self.named: list[JSON] = []

    def add(self, *, index: int, column: str | None, reason: str, line: int | None = None) -> None:
        """Count a problem of the record at `index`; `column` is None if the record itself is wrong.

        `line` is where the record begins, from 1, in a body of lines.
        """
        self.count += 1
        if len(self.named) < MAX_NAMED:
            place: dict[str, JSON] = {"index": index} if line is None else {"index": index, "line": line}
            self.named.append({**place, "column": column and shown(column), "reason": _safe(reason)[:_LONGEST_REASON]})

    @property
    def full(self) -> bool:
        """Whether no further problem would be named."""
        return self.count >= MAX_NAMED

    def error(self) -> InvalidRecord:
        """The error that names them."""
        first = self.named[0]
        assert isinstance(first, dict)
        where = f"Record {first['index']}" + (f" (line {first['line']})" if "line" in first else "")
        where += f", column {first['column']}" if first["column"] else ""
        counted = "1 problem" if self.count == 1 else f"{self.count} problems"
        return InvalidRecord(
            f"{counted}, nothing was written. {where}: {first['reason']}",
            errors=self.named,
            error_count=self.count,
        )


def shown(text: str) -> str:
    """A caller's text, made safe and short enough to be shown back."""
    return _safe(text[:_LONGEST_NAME])


def _safe(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def listed(names: Iterable[str]) -> str:
    """Names in one line, the first few of them."""
    return ", ".join(repr(shown(name)) for _, name in zip(range(5), sorted(names), strict=False))
