"""Which files of a table are worth rewriting together. Pure."""

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from duckmesh.kernel.errors import JSON

FEWEST_OF_A_LAST_MERGE = 4


@dataclass(frozen=True, kw_only=True)
class CompactionPolicy:
    """When files are rewritten.

    Files below half of `target_file_bytes` are merged when `min_input_files` of one tier have come together, or as many
    as make a file that is big enough: so a row is rewritten a logarithmic number of times. Operations on keys are
    folded into folded files when `min_fold_files` of them, or an eighth of `target_file_bytes`, may replace at least
    `dead_share` of the folded rows; until then `max_fresh_files` of one tier become one. A slice reads at most
    `max_input_bytes` and `max_input_files` of what it replaces.
    """

    min_input_files: int = 32
    target_file_bytes: int = 128 * 2**20
    max_input_bytes: int = 512 * 2**20
    max_input_files: int = 1_000
    max_fresh_files: int = 20
    min_fold_files: int = 8
    dead_share: float = 0.02

    @property
    def small_bytes(self) -> int:
        """Files below this size are merged; what is larger is big enough."""
        return self.target_file_bytes // 2

    def full(self) -> "CompactionPolicy":
        """The policy of somebody who asks for as few files as there can be."""
        return replace(self, min_input_files=2, max_fresh_files=2, min_fold_files=1, dead_share=0.0)


@dataclass(frozen=True, kw_only=True)
class TableFile:
    """A live data file as compaction sees it."""

    file_id: int
    path: str
    row_count: int
    size_bytes: int
    schema_version: int
    level: int
    folded: bool
    min_token: int
    max_token: int
    content_algorithm: str = ""
    content_hash: int = 0
    min_event_time: datetime | None = None
    max_event_time: datetime | None = None
    partition_values: Mapping[str, JSON] = field(default_factory=dict)


def by_partition(files: Iterable[TableFile]) -> list[tuple[TableFile, ...]]:
    """The files, apart by partition; those of several partitions are by themselves."""
    groups: dict[str, list[TableFile]] = defaultdict(list)
    for file in files:
        groups[json.dumps(dict(file.partition_values), sort_keys=True)].append(file)
    return [tuple(group) for _, group in sorted(groups.items())]


def merges(files: Sequence[TableFile], policy: CompactionPolicy) -> list[tuple[TableFile, ...]]:
    """Which of these files become one, each at most once. What is big enough is left alone."""
    small = [file for file in files if file.size_bytes < policy.small_bytes]
    most = min(policy.target_file_bytes, policy.max_input_bytes)
    return [
        chunk
        for tier in _tiers(small, fewest=policy.min_input_files)
        for chunk in chunks(tier, most_bytes=most, most_files=policy.max_input_files)
        if len(chunk) >= policy.min_input_files or _makes_a_big_one(chunk, policy)
    ]


def gathers(fresh: Sequence[TableFile], policy: CompactionPolicy) -> list[tuple[TableFile, ...]]:
    """Which of these files of operations become one, each at most once."""
    return [
        chunk
        for tier in _tiers(fresh, fewest=policy.max_fresh_files)
        if len(tier) >= policy.max_fresh_files
        for chunk in chunks(tier, most_bytes=policy.max_input_bytes, most_files=policy.max_input_files)
        if len(chunk) > 1
    ]


def chunks(files: Iterable[TableFile], *, most_bytes: int, most_files: int) -> list[tuple[TableFile, ...]]:
    """The files in their order, cut where they would be more than so many or so large; none is left out."""
    found: list[list[TableFile]] = []
    size = 0
    for file in files:
        if not found or size + file.size_bytes > most_bytes or len(found[-1]) >= most_files:
            found.append([])
            size = 0
        found[-1].append(file)
        size += file.size_bytes
    return [tuple(chunk) for chunk in found]


def foldable(
    fresh: Iterable[TableFile], *, before: int | None, most_bytes: int | None = None
) -> tuple[tuple[TableFile, ...], int]:
    """The longest run of fresh files whose operations are all older than those of the others, and than `before`.

    With it comes H, the last token that it reaches: everything up to there is folded with it. A run that would be
    larger than `most_bytes` ends earlier, where it can.
    """
    ordered = sorted(fresh, key=lambda file: (file.min_token, file.file_id))
    ready, reached, last, size = 0, 0, 0, 0
    for number, file in enumerate(ordered, start=1):
        reached = max(reached, file.max_token)
        size += file.size_bytes
        if before is not None and reached >= before:
            break
        if ready and most_bytes is not None and size > most_bytes:
            break
        if number == len(ordered) or reached < ordered[number].min_token:
            ready, last = number, reached
    return tuple(ordered[:ready]), last


def worth_folding(ready: Sequence[TableFile], folded: Sequence[TableFile], policy: CompactionPolicy) -> bool:
    """Whether so many operations have come together that reading past them costs more than rewriting."""
    if not ready:
        return False
    rows = sum(file.row_count for file in ready)
    size = sum(file.size_bytes for file in ready)
    enough = len(ready) >= policy.min_fold_files or size >= policy.target_file_bytes // 8
    return enough and rows >= policy.dead_share * sum(file.row_count for file in folded)


def _makes_a_big_one(chunk: Sequence[TableFile], policy: CompactionPolicy) -> bool:
    """Whether these files, fewer than are merged otherwise, become one that is never merged again."""
    return len(chunk) >= FEWEST_OF_A_LAST_MERGE and sum(file.size_bytes for file in chunk) >= policy.small_bytes


def _tiers(files: Iterable[TableFile], *, fewest: int) -> list[list[TableFile]]:
    """Files that may become one, in the order of their tokens. Two at a time: all of them.

    Otherwise they are apart by how often their rows have been rewritten: then each of n files is in log n rewrites at
    most, to the base `fewest`. Sizes would not do: files of few rows shrink when they are merged, and would be merged
    with fresh ones again. Folded files are apart by size all the same, since cleaning rewrites and merges nothing.
    """
    tiers: dict[int, list[TableFile]] = defaultdict(list)
    for file in sorted(files, key=lambda file: (file.min_token, file.file_id)):
        tier = _size_class(file.size_bytes, fewest) if file.folded else file.level
        tiers[0 if fewest < 3 else tier].append(file)
    return [files for _, files in sorted(tiers.items())]


def _size_class(size_bytes: int, fewest: int) -> int:
    return 0 if fewest < 3 else int(math.log(max(size_bytes, 4096) / 4096, fewest))
