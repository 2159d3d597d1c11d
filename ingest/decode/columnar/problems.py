"""Problems of one column's values, found for many rows at once."""

import pyarrow as pa
import pyarrow.compute as pc

from ingest.decode.refusals import MAX_NAMED


class Problems:
    """Counts what is wrong with the values of a column and keeps the first hundred, by their rows."""

    def __init__(self) -> None:
        self.count = 0
        self.named: list[tuple[int, str]] = []

    @property
    def full(self) -> bool:
        """Whether further problems are only counted."""
        return len(self.named) >= MAX_NAMED

    def add(self, row: int, reason: str) -> None:
        """The value of this row is refused."""
        self.count += 1
        if not self.full:
            self.named.append((row, reason))

    def where(self, mask: pa.Array, reason: str) -> None:
        """The values are refused where the mask is true; null is not."""
        rows = pc.indices_nonzero(mask)
        for row in rows.slice(0, MAX_NAMED).to_pylist():
            self.add(row, reason)
        self.more(max(0, len(rows) - MAX_NAMED))

    def more(self, count: int) -> None:
        """As many further values are refused, unnamed."""
        self.count += count


class ElementProblems(Problems):
    """The problems of the elements of lists, told of the rows that hold the lists."""

    def __init__(self, lists: Problems, *, parents: pa.Array) -> None:
        super().__init__()
        self._lists = lists
        self._parents = parents

    def add(self, row: int, reason: str) -> None:
        """The element is refused; `row` is its place among the elements of all lists."""
        if self._lists.full:  # finding the place in the list takes a while
            self._lists.more(1)
            return
        parent = self._parents[row].as_py()
        first = pc.index(self._parents, parent).as_py()
        self._lists.add(parent, f"element {row - first} {reason}")

    @property
    def full(self) -> bool:
        """Whether further problems are only counted."""
        return self._lists.full

    def more(self, count: int) -> None:
        """As many further elements are refused, unnamed."""
        self._lists.more(count)
