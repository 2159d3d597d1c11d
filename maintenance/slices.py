"""What one slice of a compaction does: which files it replaces, by which rows, and how these are proven. Pure.

Four kinds, of which each leaves what a query sees as it was:

- *merge*: several files become one with the same rows. Right for tables without a key and for folded files.
- *gather*: several fresh files become one with the last operation of each key, deletes too. The greatest token wins
  whatever was gathered before and whatever comes later, so this is right beside a failed write that may be replayed.
- *clean*: folded files become ones without the rows whose key has an operation in `later`. No query shows those.
- *settle*: fresh files become folded ones: the last operation of each key that is no delete.

Settling forgets tokens: from then on a fresh row replaces the folded one of its key, whatever their tokens, and a key
whose delete was dropped is as if it had never been. So it is right only when every row that will ever be fresh beside
it is later. Rows that are not yet visible get tokens above the watermark, but for failed writes that are replayed:
they keep the tokens they were acknowledged with. Hence H: a fold takes all fresh files up to the token H, where H is
below the oldest failed write of the table that is neither discarded nor visible, and no other fresh file begins at or
below H. And the keys of what is settled must have left the folded files before, which is what *clean* is for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from maintenance.tiers import TableFile
from storage.columns import OP_COLUMN, TOKEN_COLUMN
from storage.keyed import OP_DELETE, last_sql, untouched_sql
from storage.reading import quote_name


class SliceKind(StrEnum):
    """See the module."""

    MERGE = "merge"
    GATHER = "gather"
    CLEAN = "clean"
    SETTLE = "settle"


@dataclass(frozen=True, kw_only=True)
class Slice:
    """A piece of work that is published by itself: `inputs` are replaced, `later` are read beside them."""

    kind: SliceKind
    inputs: tuple[TableFile, ...]
    later: tuple[TableFile, ...] = ()

    @property
    def input_bytes(self) -> int:
        """The size of what is replaced."""
        return sum(file.size_bytes for file in self.inputs)

    @property
    def folded(self) -> bool:
        """Whether what it writes is folded."""
        return self.kind in (SliceKind.CLEAN, SliceKind.SETTLE) or self.inputs[0].folded

    @property
    def level(self) -> int:
        """How often the rows of what it writes have been rewritten, at most."""
        return min(1 + max(file.level for file in self.inputs), 100)


@dataclass(frozen=True, kw_only=True)
class SliceSql:
    """The rows to be written, and the same rows found in another way, as a FROM-able expression."""

    select: str
    expected: str


def slice_sql(kind: SliceKind, *, inputs: str, later: str, columns: Sequence[str], key: Sequence[str]) -> SliceSql:
    """The SQL of a slice over FROM-able `inputs` and `later`, which yield the columns."""
    names = ", ".join(map(quote_name, columns))
    keys = ", ".join(map(quote_name, key))
    if kind == SliceKind.MERGE:
        return SliceSql(select=f"SELECT {names} FROM {inputs}", expected=inputs)
    if kind == SliceKind.CLEAN:
        return SliceSql(
            select=untouched_sql(folded=inputs, fresh=later, columns=columns, key=key),
            expected=f"(SELECT {names} FROM {inputs} ANTI JOIN (SELECT {keys} FROM {later}) USING ({keys}))",
        )
    kept = f"{OP_COLUMN} IS DISTINCT FROM {OP_DELETE}" if kind == SliceKind.SETTLE else "true"
    last = f"{TOKEN_COLUMN} IN (SELECT max({TOKEN_COLUMN}) FROM {inputs} GROUP BY {keys})"
    return SliceSql(
        select=f"SELECT {names} FROM {inputs} WHERE {last} AND {kept}",
        expected=f"(SELECT {names} FROM ({last_sql(fresh=inputs, key=key)}) WHERE {kept})",
    )


def piece_sql(source: str, *, key: Sequence[str], number: int, pieces: int) -> str:
    """The rows of `source` whose key falls into one of so many pieces; all operations of a key fall into one."""
    if pieces == 1:
        return source
    keys = ", ".join(map(quote_name, key))
    return f"(SELECT * FROM {source} WHERE hash({keys}) % {pieces} = {number})"
