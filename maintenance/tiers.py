"""Which files of a table are worth rewriting together. Pure."""

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from duckmesh.kernel.errors import JSON


@dataclass(frozen=True, kw_only=True)
class CompactionPolicy:
    """When files are rewritten.

    Files below half of `target_file_bytes` are merged when `min_input_files` of about one size have come together, so
    that a row is rewritten a logarithmic number of times. Operations on keys are folded into folded files when
    `min_fold_files` of them, or an eighth of `target_file_bytes`, may replace at least `dead_share` of the folded
    rows; until then `max_fresh_files` of them become one.
    """

    min_input_files: int = 8
    target_file_bytes: int = 128 * 2**20
    max_input_bytes: int = 512 * 2**20
    max_fresh_files: int = 20
    min_fold_files: int = 8
    dead_share: float = 0.02

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
    small = [file for file in files if file.size_bytes < policy.target_file_bytes // 2]
    tiers: dict[int, list[TableFile]] = defaultdict(list)
    for file in sorted(small, key=lambda file: (file.min_token, file.file_id)):
        tiers[_tier(file.size_bytes, policy)].append(file)
    most = min(policy.target_file_bytes, policy.max_input_bytes)
    return [
        chunk
        for _, tier in sorted(tiers.items())
        for chunk in chunks(tier, most_bytes=most)
        if len(chunk) >= policy.min_input_files
    ]


def chunks(files: Iterable[TableFile], *, most_bytes: int) -> list[tuple[TableFile, ...]]:
    """The files in their order, cut where they would exceed so many bytes together; none is left out."""
    found: list[list[TableFile]] = []
    size = 0
    for file in files:
        if not found or size + file.size_bytes > most_bytes:
            found.append([])
            size = 0
        found[-1].append(file)
        size += file.size_bytes
    return [tuple(chunk) for chunk in found]


def foldable(fresh: Iterable[TableFile], *, before: int | None) -> tuple[tuple[TableFile, ...], int]:
    """The longest run of fresh files whose operations are all older than those of the others, and than `before`.

    With it comes H, the last token that it reaches: everything up to there is folded with it.
    """
    ordered = sorted(fresh, key=lambda file: (file.min_token, file.file_id))
    ready, reached, last = 0, 0, 0
    for number, file in enumerate(ordered, start=1):
        reached = max(reached, file.max_token)
        if before is not None and reached >= before:
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


def _tier(size_bytes: int, policy: CompactionPolicy) -> int:
    return 0 if policy.min_input_files < 3 else int(math.log(max(size_bytes, 4096) / 4096, policy.min_input_files))
