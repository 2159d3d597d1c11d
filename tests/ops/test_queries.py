"""Everything that is named or asked for anywhere, against a Prometheus that scrapes a real stack."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from duckmesh.kernel.config import ROOT
from tests.metrics import fetch, shown
from tests.ops.conftest import Monitored

DASHBOARDS = sorted((ROOT / "deploy" / "grafana" / "dashboards").glob("*.json"))
RULES = sorted((ROOT / "deploy" / "prometheus" / "rules").glob("*.yml"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "runbooks").glob("*.md"))]
UNITS = ("_total", "_ms", "_seconds", "_bytes", "_bucket", "_count", "_sum")

pytestmark = pytest.mark.ops


def queries(path: Path) -> list[str]:
    """Every query of the dashboard."""
    document: dict[str, Any] = json.loads(path.read_text())
    return [target["expr"] for panel in document["panels"] for target in panel.get("targets", [])]


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_every_query_of_a_dashboard_has_an_answer(monitored: Monitored, path: Path) -> None:
    assert len(queries(path)) > 20
    assert [query for query in queries(path) if not monitored.query(query)] == []


def test_every_rule_can_be_evaluated(monitored: Monitored) -> None:
    for path in RULES:
        for group in yaml.safe_load(path.read_text())["groups"]:
            for rule in group["rules"]:
                found = monitored.query(rule["expr"])
                assert found or "alert" in rule, rule["record"]


def test_every_metric_that_is_named_anywhere_exists(monitored: Monitored) -> None:
    exists = set(shown(map(fetch, monitored.stack.metrics_urls.values())))
    named = {name: where for where, name in (*names_in_rules(), *names_in_pages(exists))}
    assert len(named) > 40
    assert {name: where for name, where in named.items() if base(name, exists) not in exists} == {}


def names_in_rules() -> Iterator[tuple[str, str]]:
    """Words of rules and dashboards that look like metrics, each with its file: all of them must be."""
    for path in (*RULES, *DASHBOARDS):
        text = re.sub(r"duckmesh:\w+:\w+", "", path.read_text())
        yield from ((path.name, name) for name in re.findall(r"\b(?:duckmesh|django)_[a-z0-9_]+", text))


def names_in_pages(exists: set[str]) -> Iterator[tuple[str, str]]:
    """Words of pages that must be metrics: they end as one, or begin as one that exists and are no function's name.

    Databases, roles and functions of PostgreSQL have names of ours as well.
    """
    beginnings = {name.split("_")[1] for name in exists if name.startswith("duckmesh_")}
    functions = set(re.findall(r"FUNCTION (duckmesh_\w+)", "".join(path.read_text() for path in migrations())))
    for path in PAGES:
        for name in re.findall(r"\bduckmesh_[a-z0-9_]*[a-z0-9]\b", path.read_text()):
            if name.endswith(UNITS) or (name.split("_")[1] in beginnings and name not in functions):
                yield path.name, name


def migrations() -> Iterator[Path]:
    """What makes the functions of the database, whose names begin like metrics."""
    return ROOT.glob("*/migrations/*.py")


def base(name: str, exists: set[str]) -> str:
    """The metric that a series belongs to."""
    for suffix in ("_bucket", "_count", "_sum"):
        if name not in exists and name.endswith(suffix):
            return name.removesuffix(suffix)
    return name
