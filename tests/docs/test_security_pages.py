"""docs/security.md and the checklist name tests, settings and pages that exist."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
CHECKLIST = (ROOT / "docs" / "penetration-test-checklist.md").read_text("utf-8")
PAGE = (ROOT / "docs" / "security.md").read_text("utf-8")
TEST = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def items() -> list[tuple[str, str]]:
    rows = re.findall(r"^\| (.+?) \| (.+) \|$", CHECKLIST, re.MULTILINE)
    return [row for row in rows if row != ("try", "test")]


def defined(path: Path) -> set[str]:
    tree = ast.parse(path.read_text("utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_item_of_the_checklist_names_tests_that_exist() -> None:
    assert len(items()) > 40
    for item, cell in items():
        named = TEST.findall(cell)
        assert named, f"nothing performs: {item}"
        assert re.sub(r"[`, ]", "", TEST.sub("", cell)) == "", item
        for path, name in named:
            assert name in defined(ROOT / path), f"{item}: {path}::{name}"


def test_every_test_of_penetration_browsers_and_canaries_is_on_the_checklist() -> None:
    named = set(TEST.findall(CHECKLIST))
    for module in ("test_penetration", "test_browsers", "test_canaries"):
        path = f"tests/acceptance/{module}.py"
        tests = {name for name in defined(ROOT / path) if name.startswith("test_")}
        assert {(path, name) for name in tests} <= named


def test_every_risk_of_owasp_has_its_line() -> None:
    assert re.findall(r"^\| API(\d+) \|", PAGE, re.MULTILINE) == [str(n) for n in range(1, 11)]


def test_every_page_and_setting_that_is_named_exists() -> None:
    settings = (ROOT / "docs" / "settings.md").read_text("utf-8")
    for name in re.findall(r"`?(DUCKMESH_[A-Z_]+)", PAGE):
        assert f"`{name}`" in settings, name
    for link in re.findall(r"\]\(([^)]+)\)", PAGE):
        assert (ROOT / "docs" / link).exists(), link
