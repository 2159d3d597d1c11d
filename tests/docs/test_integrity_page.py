"""docs/integrity.md tells of every finding that there is, under its severity, and of no other."""

import re
from pathlib import Path

from maintenance.integrity.findings import FindingKind

PAGE = Path(__file__).resolve().parents[2] / "docs" / "integrity.md"


def test_every_finding_is_told_under_its_severity() -> None:
    text = PAGE.read_text(encoding="utf-8")
    told = {}
    for section in re.split(r"^### ", text, flags=re.MULTILINE)[1:]:
        severity = section.split("s:", 1)[0].lower()
        for row in re.findall(r"^\| (`[^|]*`) \|", section, flags=re.MULTILINE):
            told.update(dict.fromkeys(re.findall(r"`(\w+)`", row), severity))
    assert told == {kind.value: kind.severity.value for kind in FindingKind}
