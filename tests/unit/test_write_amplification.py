"""How often a row is written in a day of a flush a second, by the planner that compaction uses."""

from dataclasses import dataclass, field

import pytest

from maintenance.tiers import CompactionPolicy, TableFile, merges

SECONDS = 86_400


@dataclass
class Day:
    """A table that gets a file a second; a merged file is as large as its inputs."""

    policy: CompactionPolicy
    live: dict[int, TableFile] = field(default_factory=dict)
    written: int = 0
    made: int = 0

    def add(self, size: int, *, level: int = 0, token: int | None = None) -> None:
        self.made += 1
        self.written += size
        self.live[self.made] = TableFile(
            file_id=self.made,
            path="",
            row_count=1,
            size_bytes=size,
            schema_version=1,
            level=level,
            folded=False,
            min_token=token or self.made,
            max_token=token or self.made,
        )

    def compact(self) -> None:
        while work := merges(list(self.live.values()), self.policy):
            for inputs in work:
                for file in inputs:
                    del self.live[file.file_id]
                level = 1 + max(file.level for file in inputs)
                self.add(sum(file.size_bytes for file in inputs), level=level, token=inputs[0].min_token)


@pytest.mark.parametrize(("size", "every"), [(2_000, 10), (20_000, 60), (100_000, 10), (500_000, 600)])
def test_day_of_flushes_is_written_four_times_at_most_with_a_fan_in_of_32(size: int, every: int) -> None:
    day = Day(CompactionPolicy())
    assert day.policy.min_input_files == 32
    most = 0
    for second in range(1, SECONDS + 1):
        day.add(size)
        if second % every == 0:
            day.compact()
            most = max(most, len(day.live))
    assert day.written <= 4 * SECONDS * size
    assert most <= 3 * 32 + SECONDS * size // (day.policy.target_file_bytes // 2)
