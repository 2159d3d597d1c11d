"""A gauge of the metrics page: its name, what it says, and its labels of bounded values."""

from collections.abc import Mapping
from dataclasses import dataclass

from prometheus_client.core import GaugeMetricFamily


@dataclass(frozen=True, kw_only=True)
class Gauge:
    """Declared once; docs/metrics.md is held against it."""

    name: str
    help_text: str
    labels: tuple[str, ...] = ()

    def alone(self, value: float) -> GaugeMetricFamily:
        """Its one value."""
        return GaugeMetricFamily(self.name, self.help_text, value=value)

    def by(self, values: Mapping[tuple[str, ...], float]) -> GaugeMetricFamily:
        """A value for each tuple of labels."""
        family = GaugeMetricFamily(self.name, self.help_text, labels=self.labels)
        for labels, value in values.items():
            family.add_metric(labels, value)
        return family
