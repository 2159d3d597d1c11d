"""Keys of objects: one spelling each, and none that leads elsewhere."""

import itertools
import re
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duckmesh.kernel.errors import JSON
from storage.errors import InvalidKey
from storage.keys import LONGEST_KEY, LONGEST_SEGMENT, data_file_key, normalise

AT = datetime(2013, 1, 1, 23, 30, tzinfo=timezone(timedelta(hours=-5)))


def test_a_data_file_is_named_by_table_and_hour_of_publishing_in_utc() -> None:
    key = data_file_key(tenant_id="demo", table_name="flights", at=AT, snapshot_or_epoch=7, seq=2)
    assert re.fullmatch(
        r"demo/flights/date=2013-01-02/hour=04/part-7-2-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\.parquet", key
    )


def test_no_data_file_key_is_given_out_twice() -> None:
    keys = {
        data_file_key(tenant_id="t", table_name="n", at=datetime.now(UTC), snapshot_or_epoch=1, seq=1)
        for _ in range(1000)
    }
    assert len(keys) == 1000


def directory(partition: dict[str, JSON]) -> str:
    key = data_file_key(tenant_id="t", table_name="n", at=AT, snapshot_or_epoch=1, seq=1, partition=partition)
    assert normalise(key) == key
    assert key.startswith("t/n/")
    return key.removeprefix("t/n/").rpartition("/")[0]


@pytest.mark.parametrize(
    ("partition", "expected"),
    [
        ({"time_hour_day": "2013-01-01"}, "time_hour_day=2013-01-01"),
        ({"at_hour": "2013-01-01-05", "id_bucket_16": 7}, "at_hour=2013-01-01-05/id_bucket_16=7"),
        ({"a": None, "b": ""}, "a=__HIVE_DEFAULT_PARTITION__/b="),
        ({"a": "__HIVE_DEFAULT_PARTITION__"}, "a=%5F_HIVE_DEFAULT_PARTITION__"),
        ({"a": True, "b": -1.5}, "a=true/b=-1.5"),
        ({"a": ".."}, "a=.."),
        ({"a": "x/y*?[\\=%~é\0"}, "a=x%2Fy%2A%3F%5B%5C%3D%25%7E%C3%A9%00"),
        ({"a": {"digest": "00ff"}}, "a=00ff"),
        ({"a": "x" * 500}, "a=" + "x" * 118),
        ({"a": "x" * 116 + "é"}, "a=" + "x" * 116),
        ({"a": "x" * 117 + "é"}, "a=" + "x" * 117),
        ({"a": "x" * 115 + "é"}, "a=" + "x" * 115 + "%C3"),
        ({"a": "x" * 118 + "é"}, "a=" + "x" * 118),
    ],
)
def test_a_partition_is_told_by_the_directories(partition: dict[str, JSON], expected: str) -> None:
    assert directory(partition) == expected


_VALUES = st.one_of(
    st.none(), st.text(), st.text(min_size=200, max_size=300), st.sampled_from(["..", "__HIVE_DEFAULT_PARTITION__"])
)


@given(st.dictionaries(st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,75}", fullmatch=True), _VALUES, min_size=1, max_size=12))
def test_every_partition_gives_a_key_that_the_catalog_holds(partition: dict[str, JSON]) -> None:
    key = data_file_key(
        tenant_id="t" * 63, table_name="n" * 63, at=AT, snapshot_or_epoch=2**40, seq=10**6, partition=partition
    )
    assert normalise(key) == key
    assert len(key) <= 500
    assert key.isascii()


@given(st.lists(_VALUES, max_size=8))
def test_values_share_a_directory_only_where_they_are_cut(values: list[str | None]) -> None:
    for one, other in itertools.combinations(set(values), 2):
        shared = directory({"a": one})
        assert shared != directory({"a": other}) or len(shared) >= 118


@pytest.mark.parametrize("tenant_id", ["..", "", "/", "a*"])
def test_a_tenant_cannot_name_a_way_out(tenant_id: str) -> None:
    with pytest.raises(InvalidKey):
        data_file_key(tenant_id=tenant_id, table_name="n", at=AT, snapshot_or_epoch=1, seq=1)


def test_two_spellings_of_one_text_are_one_key() -> None:
    assert normalise("cafe\u0301") == normalise("caf\u00e9") == "caf\u00e9"


@pytest.mark.parametrize("key", ["a", "a/b", "a b", "...", "a..b", "é", "x" * LONGEST_SEGMENT, "date=2013-01-01/h"])
def test_a_sound_key_is_its_own_spelling(key: str) -> None:
    assert normalise(key) == key


@pytest.mark.parametrize(
    "key",
    [
        *("", "/", "/a", "a/", "a//b", ".", "..", "a/..", "../a", "a/./b"),
        *("a\\b", "a\0", "a\n", "a\x7f", "a\x85", "a*", "a?", "[a]", "\ud800"),
        "x" * (LONGEST_SEGMENT + 1),
        "/".join(["x" * 200] * (LONGEST_KEY // 200 + 1)),
    ],
)
def test_an_unsound_key_is_refused(key: str) -> None:
    with pytest.raises(InvalidKey):
        normalise(key)


@given(st.text(max_size=60))
def test_a_key_that_passes_stays_below_the_root(text: str) -> None:
    try:
        key = normalise(text)
    except InvalidKey:
        return
    assert normalise(key) == key
    assert not {"", ".", ".."}.intersection(key.split("/"))
