"""Metrics as pages show them, and as docs/metrics.md describes them."""

import re
import urllib.request
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

PAGE = Path(__file__).parents[1] / "docs" / "metrics.md"
_OF_BUCKETS = {"le"}


@dataclass(frozen=True, kw_only=True)
class Described:
    """A metric's type and the names of its labels."""

    kind: str
    labels: frozenset[str]


def documented(*, tenant_labels: bool = True) -> dict[str, Described]:
    """Every metric that docs/metrics.md describes, each once, as it is with tenant labels or without."""
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (.*?) ?\| .+\|$", PAGE.read_text("utf-8"), re.MULTILINE)
    hidden = set() if tenant_labels else {"tenant"}
    found = {
        name: Described(kind=kind, labels=frozenset(re.findall(r"`(\w+)`", cell)) - hidden) for name, kind, cell in rows
    }
    assert len(found) == len(rows)
    return found


def shown(pages: Iterable[str]) -> dict[str, Described]:
    """Every metric with a sample on one of these pages."""
    found: dict[str, Described] = {}
    for page in pages:
        for family in text_string_to_metric_families(page):
            name = family.name + ("_total" if family.type == "counter" else "")
            if family.samples:
                labels = frozenset(family.samples[0].labels) - _OF_BUCKETS
                found[name] = Described(kind=family.type, labels=labels)
    return found


def fetch(url: str) -> str:
    """The page at this address."""
    with urllib.request.urlopen(url, timeout=30) as answer:
        text: str = answer.read().decode()
        return text
