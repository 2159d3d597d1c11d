"""README.md shows the newest full run of `make bench`: `python -m tests.benchmarks.readme [RUN.json …]`.

With several runs, such as of one benchmark each, a later one replaces what an earlier one has of the same name.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from duckmesh.kernel.config import ROOT, load_config
from tests.benchmarks.report import Figure

PAGE = ROOT / "README.md"
_BEGIN, _END = "<!-- figures -->\n", "<!-- end of figures -->\n"


def main() -> None:
    """Write the section anew."""
    runs = [Path(name) for name in sys.argv[1:]] or [_newest(load_config().home / "bench")]
    text = PAGE.read_text("utf-8")
    head, _, rest = text.partition(_BEGIN)
    _, _, tail = rest.partition(_END)
    PAGE.write_text(
        head + _BEGIN + section([json.loads(run.read_text("utf-8")) for run in runs]) + _END + tail, "utf-8"
    )


def _newest(directory: Path) -> Path:
    full = [path for path in sorted(directory.glob("*.json")) if json.loads(path.read_text("utf-8")).get("share") == 1]
    if not full:
        sys.exit(f"There is no run of the full size in {directory}: make bench")
    return full[-1]


# `Any`: the documents that `report.keep` wrote.
def section(runs: Sequence[dict[str, Any]]) -> str:
    """The machine and the table. Figures that begin with … belong to the one above and stay with it."""
    groups: dict[str, list[Figure]] = {}
    for run in runs:
        for group in _groups(run["figures"]):
            groups[group[0].name] = group
    machine = runs[-1]["machine"]
    memory = f"{machine['memory_bytes'] / 2**30:.0f} GiB of memory"
    lines = [
        f"{machine['cores']} cores, {memory}, Python {machine['python']}, on {runs[-1]['at'][:10]}.",
        "",
        "| what | measured | bar | |",
        "|---|---|---|---|",
        *(
            f"| {figure.name} | {figure.measured} | {figure.wanted} | {figure.verdict} |"
            for group in groups.values()
            for figure in group
        ),
    ]
    return "\n".join(lines) + "\n"


def _groups(figures: Sequence[dict[str, Any]]) -> list[list[Figure]]:
    found: list[list[Figure]] = []
    for row in figures:
        figure = Figure(**{name: row[name] for name in ("name", "value", "unit", "bar", "lower_is_better")})
        if figure.name.startswith("…") and found:
            found[-1].append(figure)
        else:
            found.append([figure])
    return found


if __name__ == "__main__":
    main()
