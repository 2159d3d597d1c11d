"""Every alert is proven: silent, then firing, by promtool; and by a stack that is broken, or the page says why not."""

import ast
import re
from pathlib import Path

import yaml

from duckmesh.kernel.config import ROOT
from tests.runbooks.pages import alerts

PROMTOOL = sorted((ROOT / "deploy" / "prometheus" / "tests").glob("*.yml"))
CAUSING = (ROOT / "tests" / "runbooks" / "test_pages.py", ROOT / "tests" / "ops" / "test_drills.py")
PAGE = (ROOT / "docs" / "operations.md").read_text("utf-8")


def names() -> set[str]:
    """Every alert of the rules."""
    return {alert["alert"] for alert in alerts()}


def named_in(path: Path) -> set[str]:
    """The alerts that the module's tests wait for."""
    words = (node.value for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Constant))
    return {word for word in words if isinstance(word, str) and re.fullmatch(r"DuckMesh\w+", word)}


def test_every_alert_is_silent_and_then_fires_in_one_test_of_promtool() -> None:
    proven = set()
    for path in PROMTOOL:
        for case in yaml.safe_load(path.read_text("utf-8"))["tests"]:
            ends = {True: set[str](), False: set[str]()}
            for part in case.get("alert_rule_test", []):
                ends[bool(part["exp_alerts"])].add(part["alertname"])
            proven |= ends[True] & ends[False]
    assert proven == names()


def test_every_alert_is_caused_on_a_stack_or_the_page_says_what_proves_it_instead() -> None:
    caused = set().union(*map(named_in, CAUSING))
    assert caused <= names()
    excused = dict(re.findall(r"^\| `(DuckMesh\w+)` \| (.{40,}) \|$", PAGE, re.MULTILINE))
    assert set(excused) == names() - caused
