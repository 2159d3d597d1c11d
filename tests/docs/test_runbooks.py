"""The runbooks are held against the alerts: each names its page, each page its alerts, and the index both."""

import re
from collections import defaultdict
from pathlib import Path

import pytest

from tests.runbooks.pages import DIRECTORY, HEADINGS, alerts, names, read_page

INDEX = (DIRECTORY / "README.md").read_text("utf-8")


@pytest.mark.parametrize("name", names())
def test_a_page_has_the_six_headings_commands_and_the_output_to_expect(name: str) -> None:
    page = read_page(name)
    assert page.title.startswith("# ")
    assert tuple(page.sections) == HEADINGS
    for heading in ("Check", "Act", "Confirm"):
        assert page.blocks(heading), heading
    assert all(block.expected for block in page.blocks("Confirm"))
    text = "".join(page.sections.values())
    assert text.count("```") == 2 * (len(re.findall(r"^```(?:sh|text)$", text, re.MULTILINE)))


def test_every_alert_has_its_page_and_every_page_names_its_alerts() -> None:
    of_rules: defaultdict[str, set[str]] = defaultdict(set)
    for alert in alerts():
        of_rules[Path(alert["annotations"]["runbook"]).stem].add(alert["alert"])
    assert {name: read_page(name).alerts for name in names() if read_page(name).alerts} == dict(of_rules)


def test_the_index_leads_from_every_alert_and_to_every_page() -> None:
    rows = dict(re.findall(r"^\| `(DuckMesh\w+)` \|.*\[\S+\]\((\S+)\.md\) \|$", INDEX, re.MULTILINE))
    assert rows == {alert["alert"]: Path(alert["annotations"]["runbook"]).stem for alert in alerts()}
    assert set(re.findall(r"\]\(([\w-]+)\.md\)", INDEX)) == set(names())
