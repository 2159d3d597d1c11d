"""What the benchmarks print: figures beside their bars, and README's table of them."""

import json
from pathlib import Path

import pytest

from tests.benchmarks.readme import section
from tests.benchmarks.report import Figure, keep


@pytest.mark.parametrize(
    ("figure", "ratio", "verdict"),
    [
        (Figure("rate", 50.0, "rows/s", bar=100), 0.5, "short of bar"),
        (Figure("rate", 100.0, "rows/s", bar=100), 1.0, "PASS"),
        (Figure("wait", 50.0, "ms", bar=100, lower_is_better=True), 2.0, "PASS"),
        (Figure("wait", 200.0, "ms", bar=100, lower_is_better=True), 0.5, "short of bar"),
        (Figure("failed", 0, "writes", bar=0, lower_is_better=True), None, "PASS"),
        (Figure("failed", 1, "writes", bar=0, lower_is_better=True), None, "short of bar"),
        (Figure("size", 3.0, "MiB"), None, ""),
    ],
)
def test_a_figure_says_whether_it_reaches_its_bar(figure: Figure, ratio: float | None, verdict: str) -> None:
    assert (figure.ratio, figure.verdict) == (ratio, verdict)


def test_numbers_are_shown_with_as_many_digits_as_mean_something() -> None:
    shown = [Figure("", value, "ms").measured for value in (0.946, 7.0, 12.34, 123.4, 12_345.6)]
    assert shown == ["0.95 ms", "7 ms", "12.3 ms", "123 ms", "12,346 ms"]


def test_the_table_holds_the_newest_figures_of_each_benchmark(tmp_path: Path) -> None:
    first = [Figure("ingest", 1.0, "rows/s", bar=2), Figure("… p95", 9.0, "ms"), Figure("query", 3.0, "ms")]
    second = [Figure("ingest", 4.0, "rows/s", bar=2), Figure("… p95", 5.0, "ms")]
    runs = [
        json.loads(keep(figures, tmp_path / str(number), share=1).read_text("utf-8"))
        for number, figures in enumerate((first, second))
    ]
    assert section(runs).splitlines()[2:] == [
        "| what | measured | bar | |",
        "|---|---|---|---|",
        "| ingest | 4 rows/s | 2 rows/s | PASS |",
        "| … p95 | 5 ms |  |  |",
        "| query | 3 ms |  |  |",
    ]
