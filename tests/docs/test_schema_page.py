"""docs/schema.md is held against what growing tables do with the values that it shows."""

import json
import re
from pathlib import Path

from tests.unit.growth_cases import GrowingTable

PAGE = (Path(__file__).parents[2] / "docs" / "schema.md").read_text("utf-8")
VALUES = re.compile(r"`([^`]+)`")


def column_type(table: GrowingTable) -> str:
    return table.shape.schema.columns[0].type


def test_every_first_value_becomes_the_type_that_the_page_says() -> None:
    rows = re.findall(r"^\| `([^`]+)` \| `(\w+)` \|$", PAGE, re.MULTILINE)
    assert len(rows) >= 15
    for value, type_ in rows:
        table = GrowingTable()
        table.write(f'{{"v":{value}}}')
        assert (value, column_type(table)) == (value, type_)


def test_every_meeting_ends_as_the_page_says() -> None:
    rows = re.findall(r"^\| (`.+) \| `(\w+)` \| (`.+) \|$", PAGE, re.MULTILINE)
    assert len(rows) >= 10
    for values, type_, answers in rows:
        written, expected = VALUES.findall(values), VALUES.findall(answers)
        for order in (slice(None), slice(None, None, -1)):
            table = GrowingTable()
            for value in written[order]:
                table.write(f'{{"v":{value}}}')
            assert (values, column_type(table)) == (values, type_)
            assert [json.loads(answer) for answer in expected[order]] == table.rows("v")
            assert [type(json.loads(answer)) for answer in expected] == [type(v) for v in table.rows("v")]
