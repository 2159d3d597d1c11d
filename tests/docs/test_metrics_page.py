"""docs/metrics.md is held against the metrics that exist."""

from prometheus_client.metrics import MetricWrapperBase

from api.metrics import GAUGES
from duckmesh.kernel import metrics
from tests.metrics import Described, documented


def test_every_metric_is_documented_with_its_type_and_labels() -> None:
    declared = {gauge.name: Described(kind="gauge", labels=frozenset(gauge.labels)) for gauge in GAUGES}
    for metric in vars(metrics).values():
        if isinstance(metric, MetricWrapperBase):
            (described,) = metric.describe()
            name = described.name + ("_total" if described.type == "counter" else "")
            declared[name] = Described(kind=described.type, labels=frozenset(metric._labelnames))
    assert {name: found for name, found in documented().items() if name.startswith("duckmesh_")} == declared


def test_units_are_in_the_names() -> None:
    for name, metric in vars(metrics).items():
        if isinstance(metric, MetricWrapperBase):
            (described,) = metric.describe()
            assert described.name.startswith("duckmesh_")
            if "latency" in name:
                assert described.name.endswith("_ms")
