"""What a query reads of a partitioned table, over HTTP: a day out of a year, one bucket out of sixteen."""

from datetime import date, timedelta

import pytest

from tests.acceptance.caller import Caller
from tests.stack import Stack

FIRST = date(2023, 1, 1)


@pytest.mark.long
def test_a_day_of_a_year_opens_one_file(demo: Caller) -> None:
    """A claim keeps apart 64 partitions; so does every request here."""
    table = demo.create({"seen": "timestamp", "n": "int64"}, partition_spec=by("seen", "day"))
    days = [FIRST + timedelta(days=number) for number in range(365)]
    for start in range(0, 365, 60):
        rows = [{"seen": f"{day}T{hour:02}:30:00Z", "n": hour} for day in days[start : start + 60] for hour in (0, 23)]
        demo.ingest(table, *({"payload": row} for row in rows), wait=True)
    document = demo.query(f"SELECT sum(n) FROM {table} WHERE seen >= '2023-05-17' AND seen < '2023-05-18'")
    assert document["rows"] == [[23]]
    assert (document["stats"]["scanned_files"], document["stats"]["pruned_files"]) == (1, 364)


def test_equality_opens_the_files_of_a_bucket_also_after_columns_swapped_their_names(
    contract_stack: Stack, demo: Caller
) -> None:
    table = demo.create({"user": "string", "agent": "string"}, partition_spec=by("user", "bucket[16]"))
    for half in (0, 1):
        rows = [{"user": f"u{number}", "agent": f"u{999 - number}"} for number in range(half, 1_000, 2)]
        demo.ingest(table, *({"payload": row} for row in rows), wait=True)
    assert read(demo, table, "user = 'u7'") == ([["u7", "u992"]], 2, 30)
    assert read(demo, table, "user IN ('u7', 'nobody')") == ([["u7", "u992"]], 4, 28)
    changed = demo.call("PATCH", f"/v1/tables/{table}", {"rename": {"user": "agent", "agent": "user"}})
    assert changed.status == 200, changed.body
    assert read(demo, table, "agent = 'u7'") == ([["u992", "u7"]], 2, 30)
    done = contract_stack.manage("compact", "--tenant", contract_stack.tenant, "--table", table, "--full")
    assert done.returncode == 0, done.stderr
    assert read(demo, table, "agent = 'u7'") == ([["u992", "u7"]], 1, 15)
    assert read(demo, table, "user = 'u7'")[0] == [["u7", "u992"]]


def by(column: str, transform: str) -> dict[str, object]:
    """A partition_spec of one field."""
    return {"fields": [{"column": column, "transform": transform}]}


def read(caller: Caller, table: str, condition: str) -> tuple[list[list[str]], int, int]:
    """The rows, and how many files were read and left out."""
    document = caller.query(f"SELECT user, agent FROM {table} WHERE {condition}")
    return document["rows"], document["stats"]["scanned_files"], document["stats"]["pruned_files"]
