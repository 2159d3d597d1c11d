"""docs/logging.md is held against the events that the code logs."""

import re
from collections import defaultdict

from duckmesh.kernel.config import ROOT
from tests.events import logged

ROW = re.compile(r"^\| `(\w+)` \| ([a-z, ]+) \| ([^|]*) \| [^|]+ \|$", re.MULTILINE)
NEVER = {
    "payload",
    "body",
    "sql",
    "statement",
    "params",
    "parameters",
    "api_key",
    "secret",
    "password",
    "url",
    "record",
}


def test_every_event_is_documented_with_its_levels_and_members() -> None:
    levels, members = defaultdict(set), defaultdict(set)
    for call in logged():
        levels[call.event].add(call.level)
        members[call.event] |= call.members
    page = (ROOT / "docs" / "logging.md").read_text(encoding="utf-8").partition("## Events")[2]
    documented = {
        event: (set(levels.split(", ")), set(re.findall(r"`(\w+)`", members)))
        for event, levels, members in ROW.findall(page)
    }
    assert documented == {event: (levels[event], members[event]) for event in levels}


def test_events_are_named_as_what_happened_and_name_no_member_that_holds_data() -> None:
    for call in logged():
        assert re.fullmatch(r"[a-z]+(_[a-z]+)+", call.event), call.place
        assert not call.members & NEVER, call.place
