"""A benchmark's figures: printed as a table beside the project's bars, kept as JSON."""

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

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
        if self.bar is None or not self.value:
            return None
        return self.bar / self.value if self.lower_is_better else self.value / self.bar


def show(figures: Sequence[Figure]) -> None:
    """Print the figures as a table."""
    table = Table(title=f"{os.cpu_count()} cores, Python {platform.python_version()}, servers and load on one machine")
    table.add_column("what")
    for column in ("measured", "bar", "of bar"):
        table.add_column(column, justify="right")
    for figure in figures:
        ratio = figure.ratio
        table.add_row(
            figure.name,
            f"{figure.value:,.1f} {figure.unit}" if figure.value < 100 else f"{figure.value:,.0f} {figure.unit}",
            "" if figure.bar is None else f"{figure.bar:,g} {figure.unit}",
            "" if ratio is None else f"{ratio:.2f}",
        )
    Console(width=120).print(table)


def keep(figures: Sequence[Figure], directory: Path) -> Path:
    """Write the figures to a file named by the time; the file."""
    directory.mkdir(parents=True, exist_ok=True)
    at = datetime.now(UTC)
    path = directory / f"{at:%Y%m%dT%H%M%SZ}.json"
    machine = {"cores": os.cpu_count(), "python": platform.python_version(), "system": platform.platform()}
    document = {"at": at.isoformat(), "machine": machine, "figures": [asdict(f) | {"ratio": f.ratio} for f in figures]}
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return path
