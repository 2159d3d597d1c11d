"""Which files a compaction takes together."""

from dataclasses import replace

import pytest

from maintenance.tiers import (
    CompactionPolicy,
    TableFile,
    by_partition,
    chunks,
    foldable,
    gathers,
    merges,
    worth_folding,
)

POLICY = CompactionPolicy(min_input_files=3, target_file_bytes=1_000_000, min_fold_files=2)


def file(
    number: int,
    *,
    tokens: tuple[int, int] = (1, 1),
    size: int = 4_096,
    rows: int = 1,
    level: int = 0,
    folded: bool = False,
) -> TableFile:
    return TableFile(
        file_id=number,
        path=f"part-{number}",
        row_count=rows,
        size_bytes=size,
        schema_version=1,
        level=level,
        folded=folded,
        min_token=tokens[0],
        max_token=tokens[1],
    )


def ids(files: tuple[TableFile, ...]) -> list[int]:
    return [file.file_id for file in files]


def test_files_that_were_rewritten_equally_often_are_merged_and_big_ones_left_alone() -> None:
    fresh = [file(number) for number in (1, 2, 3)]
    merged = [file(number, level=1) for number in (4, 5)]
    big = [file(number, size=500_000) for number in (6, 7, 8)]
    assert [ids(chunk) for chunk in merges([*fresh, *merged, *big], POLICY)] == [[1, 2, 3]]
    assert [ids(chunk) for chunk in merges([*fresh, *merged, *big], POLICY.full())] == [[1, 2, 3, 4, 5]]


def test_folded_files_of_about_one_size_are_merged_however_often_they_were_cleaned() -> None:
    small = [file(number, level=number, folded=True) for number in (1, 2, 3)]
    larger = [file(number, size=40_000, folded=True) for number in (4, 5)]
    assert [ids(chunk) for chunk in merges([*small, *larger], POLICY)] == [[1, 2, 3]]


def test_no_merge_is_larger_than_the_target_or_of_more_files_than_are_read_at_once() -> None:
    files = [file(number, size=400_000) for number in range(6)]
    assert [len(chunk) for chunk in merges(files, POLICY.full())] == [2, 2, 2]
    assert merges(files, POLICY) == []
    few = replace(POLICY, max_input_files=4)
    assert [len(chunk) for chunk in merges([file(number) for number in range(11)], few)] == [4, 4, 3]


def test_fewer_files_are_merged_if_they_make_one_that_is_big_enough() -> None:
    many = replace(POLICY, min_input_files=10)
    assert [len(chunk) for chunk in merges([file(n, size=130_000) for n in range(4)], many)] == [4]
    assert merges([file(n, size=120_000) for n in range(4)], many) == []
    assert merges([file(n, size=300_000) for n in range(3)], many) == []


def test_operations_are_gathered_with_those_that_were_gathered_equally_often() -> None:
    policy = replace(POLICY, max_fresh_files=3)
    fresh = [file(number, tokens=(number, number)) for number in (4, 5, 6)]
    gathered = [file(number, tokens=(number, number), level=1) for number in (1, 2)]
    assert [ids(chunk) for chunk in gathers([*fresh, *gathered], policy)] == [[4, 5, 6]]
    assert [ids(chunk) for chunk in gathers([*fresh[:2], *gathered], policy)] == []
    assert [ids(chunk) for chunk in gathers([*fresh[:2], *gathered], policy.full())] == [[1, 2, 4, 5]]


def test_fold_ends_where_it_would_become_too_large_if_it_can() -> None:
    files = [file(n, tokens=(n, n), size=40) for n in (1, 2, 3, 4)]
    assert [foldable(files, before=None, most_bytes=most)[1] for most in (10, 80, 100, 160)] == [1, 2, 2, 4]
    apart = [file(1, tokens=(1, 9), size=40), file(2, tokens=(2, 3), size=40), file(3, tokens=(10, 10), size=40)]
    assert foldable(apart, before=None, most_bytes=50)[1] == 9


def test_chunks_leave_nothing_out() -> None:
    files = [file(1, size=10), file(2, size=50), file(3, size=5), file(4, size=5)]
    assert [ids(chunk) for chunk in chunks(files, most_bytes=20, most_files=9)] == [[1], [2], [3, 4]]


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
