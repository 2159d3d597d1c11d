"""Bodies of lines for a growing table: one request, whose chunks may need more columns one after the other."""

from dataclasses import replace

import pytest

from duckmesh.kernel.errors import Invalid
from ingest.decode.options import BodyOptions
from ingest.errors import InvalidRecord
from tests.unit.body_cases import NDJSON
from tests.unit.decode_cases import LIMITS
from tests.unit.growth_cases import GrowingTable

WIDE = 2**53 + 1
BY_ID = BodyOptions(key_column="id")


def lines(*texts: str) -> bytes:
    return "".join(f"{text}\n" for text in texts).encode()


def test_lines_grow_a_table_as_records_do() -> None:
    table = GrowingTable()
    decoded = table.write_body(NDJSON, lines('{"a":1}', "", '{"b":"x","A":0.5}', '{"c":null}'))
    assert (table.types, decoded.record_count) == ({"a": "float64", "b": "string"}, 3)
    assert table.rows("a") == [1.0, 0.5, None]
    assert table.write_body(NDJSON, lines('{"a":2,"b":"y"}')).growth is None


def test_later_chunks_of_a_body_widen_what_earlier_ones_began() -> None:
    padding = "x" * 100
    texts = [f'{{"i":{n},"v":{n},"p":"{padding}"}}' for n in range(60_000)]
    texts += [f'{{"i":60000,"v":{WIDE},"late":true}}', '{"i":60001,"v":0.5}']
    table = GrowingTable()
    decoded = table.write_body(NDJSON, lines(*texts))
    assert decoded.record_count == 60_002
    assert table.types == {"i": "int64", "v": "string:number", "p": "string", "late": "bool"}
    values = table.rows("v")
    assert values[:3] == ["0", "1", "2"]
    assert values[-3:] == ["59999", str(WIDE), "0.5"]
    assert table.rows("late")[-3:] == [None, True, None]


def test_few_fields_once_and_many_empty_records_fill_no_memory() -> None:
    wide = "{" + ",".join(f'"c{n}":{n}' for n in range(1_000)) + "}"
    table = GrowingTable()
    decoded = table.write_body(NDJSON, lines(wide, *["{}"] * 20_000))
    assert (decoded.record_count, len(table.types)) == (20_001, 1_000)


def test_a_key_column_may_come_with_the_body() -> None:
    table = GrowingTable()
    first = table.write_body(NDJSON, lines('{"id":1,"n":1}', '{"ID":2.0}', '{"n":3}'), options=BY_ID)
    assert list(first.key_ordinals) == [0, 1]
    table.write_body(NDJSON, lines('{"id":"x"}', '{"n":[1]}'))
    again = table.write_body(NDJSON, lines('{"id":1,"n":1}', '{"id":2}'), options=BY_ID)
    assert (again.key_hashes, again.payload_hashes) == (first.key_hashes, first.payload_hashes)


@pytest.mark.parametrize("value", ["1", "1.0", "0.00001", "1e300", "0.1", '"a"', "true", str(WIDE)])
def test_a_key_is_the_same_after_its_column_has_grown(value: str) -> None:
    keys = set()
    for other in ("null", "0.5", str(WIDE), '"b"', "[]"):
        table = GrowingTable()
        table.write_body(NDJSON, lines(f'{{"id":{other},"x":1}}'))
        keys.add(table.write_body(NDJSON, lines(f'{{"id":{value}}}'), options=BY_ID).key_hashes)
    assert len(keys) == 1


def test_a_key_column_that_never_comes_is_refused() -> None:
    with pytest.raises(Invalid, match="key_column: the table has no column 'id'"):
        GrowingTable().write_body(NDJSON, lines('{"a":1}'), options=BY_ID)


def test_refused_lines_are_named_for_what_is_wrong_with_them() -> None:
    content = lines('{"a":1}', '{"b c":1}', "[1]", "{", '{"b":1,"d":2}')
    with pytest.raises(InvalidRecord) as caught:
        GrowingTable().write_body(NDJSON, content, limits=replace(LIMITS, max_columns=2))
    errors = caught.value.context["errors"]
    assert isinstance(errors, list)
    named = [(e["line"], e["column"]) for e in errors if isinstance(e, dict)]
    assert named == [(2, "b c"), (3, None), (4, None), (5, "d")]
