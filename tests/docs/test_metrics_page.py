"""docs/metrics.md is held against the metrics that exist."""

import re
from pathlib import Path

from prometheus_client.metrics import MetricWrapperBase

from api.metrics import CATALOG_UP, GAUGES, GUARD
from duckmesh.kernel import metrics

PAGE = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text("utf-8")


def test_every_metric_is_documented_with_its_type_and_labels() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (.*?) ?\| .+\|$", PAGE, re.MULTILINE)
    documented = {name: (kind, tuple(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}
    assert len(documented) == len(rows)
    declared: dict[str, tuple[str, tuple[str, ...]]] = {
        name: ("gauge", () if name == CATALOG_UP else ("tenant",)) for name in (*GAUGES, CATALOG_UP)
    }
    declared[GUARD] = ("gauge", ("short_of",))
    for metric in vars(metrics).values():
        if isinstance(metric, MetricWrapperBase):
            (described,) = metric.describe()
            name = described.name + ("_total" if described.type == "counter" else "")
            declared[name] = (described.type, tuple(metric._labelnames))
    assert documented == declared


def test_units_are_in_the_names() -> None:
    for name, metric in vars(metrics).items():
        if isinstance(metric, MetricWrapperBase):
            (described,) = metric.describe()
            assert described.name.startswith("duckmesh_")
            if "latency" in name:
                assert described.name.endswith("_ms")
