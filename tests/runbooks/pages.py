"""The pages of runbooks/: their headings, the alerts they are for, and their commands with the output to expect."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from duckmesh.kernel.config import ROOT

DIRECTORY = ROOT / "runbooks"
RULES = sorted((ROOT / "deploy" / "prometheus" / "rules").glob("*.yml"))
HEADINGS = ("When you see", "What it means", "Check", "Act", "Confirm", "Afterwards")

_BLOCK = re.compile(r"^```sh\n(.*?)^```\n(?:\n?^```text\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Block:
    """Commands that run as printed, and lines that their output holds; `…` is any text."""

    commands: str
    expected: tuple[str, ...]

    def agrees(self, output: str) -> bool:
        """Whether the lines to expect are all there."""
        lines = [line.strip() for line in output.splitlines()]
        return all(any(_pattern(wanted).fullmatch(line) for line in lines) for wanted in self.expected)


def _pattern(wanted: str) -> re.Pattern[str]:
    parts = (r"\s+".join(map(re.escape, part.split())) for part in re.split("…", wanted))
    return re.compile(r"\s*.*?\s*".join(parts))


@dataclass(frozen=True, kw_only=True)
class Page:
    """A page by its name, with the text below each heading."""

    name: str
    title: str
    sections: dict[str, str]

    def blocks(self, heading: str) -> list[Block]:
        """The commands below the heading."""
        return [
            Block(commands=commands, expected=tuple(line.strip() for line in expected.splitlines()))
            for commands, expected in _BLOCK.findall(self.sections[heading])
        ]

    @property
    def alerts(self) -> set[str]:
        """The alerts that it says it is for."""
        return set(re.findall(r"`(DuckMesh\w+)`", self.sections["When you see"]))


def read_page(name: str) -> Page:
    """The page of this name."""
    title, *parts = re.split(r"^## (.+)\n", (DIRECTORY / f"{name}.md").read_text("utf-8"), flags=re.MULTILINE)
    return Page(name=name, title=title.strip(), sections=dict(zip(parts[::2], parts[1::2], strict=True)))


def names() -> list[str]:
    """Every page but the index."""
    return sorted(path.stem for path in DIRECTORY.glob("*.md") if path.stem != "README")


def alerts() -> Iterator[dict[str, Any]]:
    """Every alert of the rules."""
    for path in RULES:
        for group in yaml.safe_load(path.read_text("utf-8"))["groups"]:
            yield from (rule for rule in group["rules"] if "alert" in rule)
