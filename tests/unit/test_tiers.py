"""Which files a compaction takes together."""

import pytest

from maintenance.tiers import CompactionPolicy, TableFile, by_partition, chunks, foldable, merges, worth_folding

POLICY = CompactionPolicy(min_input_files=3, target_file_bytes=1_000_000, min_fold_files=2)


def file(number: int, *, tokens: tuple[int, int] = (1, 1), size: int = 4_096, rows: int = 1) -> TableFile:
    return TableFile(
        file_id=number,
        path=f"part-{number}",
        row_count=rows,
        size_bytes=size,
        schema_version=1,
        level=0,
        folded=False,
        min_token=tokens[0],
        max_token=tokens[1],
    )


def ids(files: tuple[TableFile, ...]) -> list[int]:
    return [file.file_id for file in files]


def test_files_of_about_one_size_are_merged_and_big_ones_left_alone() -> None:
    small = [file(number) for number in (1, 2, 3)]
    larger = [file(number, size=40_000) for number in (4, 5)]
    big = [file(number, size=500_000) for number in (6, 7, 8)]
    assert [ids(chunk) for chunk in merges([*small, *larger, *big], POLICY)] == [[1, 2, 3]]
    assert [ids(chunk) for chunk in merges([*small, *larger, *big], POLICY.full())] == [[1, 2, 3, 4, 5]]


def test_no_merge_is_larger_than_the_target() -> None:
    files = [file(number, size=400_000) for number in range(6)]
    assert [len(chunk) for chunk in merges(files, POLICY.full())] == [2, 2, 2]
    assert merges(files, POLICY) == []


def test_chunks_leave_nothing_out() -> None:
    files = [file(1, size=10), file(2, size=50), file(3, size=5), file(4, size=5)]
    assert [ids(chunk) for chunk in chunks(files, most_bytes=20)] == [[1], [2], [3, 4]]


@pytest.mark.parametrize(
    ("tokens", "hole", "ready", "reached"),
    [
        ([(1, 5), (6, 9)], None, [0, 1], 9),
        ([(6, 9), (1, 5)], None, [1, 0], 9),
        ([(1, 5), (8, 9)], 6, [0], 5),
        ([(1, 5), (8, 9)], 5, [], 0),
        ([(1, 9), (3, 4), (10, 12)], 10, [0, 1], 9),
        ([(1, 3), (4, 12), (6, 7)], 10, [0], 3),
        ([(1, 12), (2, 3)], 10, [], 0),
        ([], None, [], 0),
    ],
)
def test_fold_takes_whole_files_that_end_before_the_others_and_before_the_hole(
    tokens: list[tuple[int, int]], hole: int | None, ready: list[int], reached: int
) -> None:
    files = [file(number, tokens=each) for number, each in enumerate(tokens)]
    taken, last = foldable(files, before=hole)
    assert (ids(taken), last) == (ready, reached)


def test_folding_is_worth_it_when_enough_rows_may_be_dead() -> None:
    base = [file(1, rows=1_000)]
    few, many = [file(2, rows=5), file(3, rows=5)], [file(2, rows=10), file(3, rows=10)]
    assert not worth_folding([], [], POLICY.full())
    assert not worth_folding(few, base, POLICY)
    assert worth_folding(many, base, POLICY)
    assert not worth_folding(many[:1], [], POLICY)
    assert worth_folding([file(2, size=200_000)], [], POLICY)
    assert worth_folding(few[:1], base, POLICY.full())


def test_partitions_are_apart_whatever_the_order_of_their_fields() -> None:
    values = ({"a": 1, "b": 2}, {"b": 2, "a": 1}, {"a": 1}, {})
    files = [TableFile(**{**vars(file(n)), "partition_values": each}) for n, each in enumerate(values)]
    assert sorted(map(ids, by_partition(files))) == [[0, 1], [2], [3]]
