"""What a compaction does to a table next: slices, and folds, which become slices when they are begun. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass

from maintenance.inventory import Inventory
from maintenance.slices import Slice, SliceKind
from maintenance.tiers import CompactionPolicy, TableFile, by_partition, foldable, gathers, merges, worth_folding


@dataclass(frozen=True, kw_only=True)
class Fold:
    """The fresh files `inputs`, all up to the token `reached`, become folded ones.

    Before that those of `folded` that hold a key of theirs are cleaned; which these are is found by reading.
    """

    kind = "fold"

    inputs: tuple[TableFile, ...]
    reached: int
    folded: tuple[TableFile, ...]

    @property
    def input_bytes(self) -> int:
        """The size of what is replaced in any case."""
        return sum(file.size_bytes for file in self.inputs)


Work = Slice | Fold


def plan_table(inventory: Inventory, *, policy: CompactionPolicy) -> list[Work]:
    """What is worth doing, each file in one piece of work at most, in any order.

    What it makes may be worth another: a table is done when nothing is planned any more.
    """
    work: list[Work] = []
    for group in _groups(inventory):
        if inventory.key:
            work += _keyed(group, inventory, policy)
        else:
            work += _slices(SliceKind.MERGE, merges(group, policy))
    return work


def _groups(inventory: Inventory) -> list[tuple[TableFile, ...]]:
    """Files that are compacted together: a partition's, or all of a keyed table where a key may be in two groups."""
    groups = by_partition(inventory.files)
    return groups if not inventory.key or inventory.partitions_divide_keys else [inventory.files]


def _keyed(group: tuple[TableFile, ...], inventory: Inventory, policy: CompactionPolicy) -> list[Work]:
    hole = inventory.first_hole
    folded = tuple(file for file in group if file.folded)
    fresh = [file for file in group if not file.folded]
    ready, _ = foldable(fresh, before=hole)
    if worth_folding(ready, folded, policy):
        # Merging and gathering wait: which files a fold leaves untouched is not known before it is done.
        ready, reached = foldable(fresh, before=hole, most_bytes=policy.max_input_bytes)
        return [Fold(inputs=ready, reached=reached, folded=folded)]
    # What lies before the failed write is kept apart from what lies after it, so that it can be folded while it waits.
    older = [file for file in fresh if hole is None or file.max_token < hole]
    newer = [file for file in fresh if hole is not None and file.max_token >= hole]
    gathered = [chunk for side in (older, newer) for chunk in gathers(side, policy)]
    return [*_slices(SliceKind.MERGE, merges(folded, policy)), *_slices(SliceKind.GATHER, gathered)]


def _slices(kind: SliceKind, found: Iterable[tuple[TableFile, ...]]) -> list[Slice]:
    return [Slice(kind=kind, inputs=inputs) for inputs in found]
