"""A benchmark's figures: printed as a table beside the project's bars, kept as JSON."""

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Figure:
    """One measured number and, where the project has set one, the bar it is held against."""

    name: str
    value: float
    unit: str
    bar: float | None = None
    lower_is_better: bool = False

    @property
    def ratio(self) -> float | None:
        """How many times the bar was reached; below 1 it was not."""
        if not self.bar or not self.value:
            return None
        return self.bar / self.value if self.lower_is_better else self.value / self.bar

    @property
    def verdict(self) -> str:
        """Whether the bar was reached, if there is one."""
        if self.bar is None:
            return ""
        reached = self.value <= self.bar if self.lower_is_better else self.value >= self.bar
        return "PASS" if reached else "short of bar"

    @property
    def measured(self) -> str:
        """The value with its unit, for people."""
        return self._shown(self.value)

    @property
    def wanted(self) -> str:
        """The bar with its unit, for people; empty without one."""
        return "" if self.bar is None else self._shown(self.bar)

    def _shown(self, value: float) -> str:
        digits = 0 if value >= 100 or value == int(value) else 1 if value >= 10 else 2
        return f"{value:,.{digits}f} {self.unit}".rstrip()


def show(figures: Sequence[Figure], *, share: float) -> None:
    """Print the figures as a table, each beside its bar."""
    size = "" if share == 1 else f"; {share:g} of the full size, so the figures mean nothing"
    title = f"{os.cpu_count()} cores, Python {platform.python_version()}, servers and load on one machine{size}"
    table = Table(title=title)
    table.add_column("what")
    for column in ("measured", "bar", "of bar", ""):
        table.add_column(column, justify="right")
    for figure in figures:
        ratio = figure.ratio
        table.add_row(
            figure.name,
            figure.measured,
            figure.wanted,
            "" if ratio is None else f"{ratio:.2f}",
            figure.verdict,
        )
    Console(width=120).print(table)


def keep(figures: Sequence[Figure], directory: Path, *, share: float) -> Path:
    """Write the figures to a file named by the time; the file."""
    directory.mkdir(parents=True, exist_ok=True)
    at = datetime.now(UTC)
    path = directory / f"{at:%Y%m%dT%H%M%SZ}.json"
    machine = {
        "cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "python": platform.python_version(),
        "system": platform.platform(),
    }
    found = [asdict(figure) | {"ratio": figure.ratio, "verdict": figure.verdict} for figure in figures]
    document = {"at": at.isoformat(), "machine": machine, "share": share, "figures": found}
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return path
