"""The room on this machine's disks, whether writes are refused for want of it, and whether the object store answers."""

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from prometheus_client.core import GaugeMetricFamily

from api.gauges.family import Gauge
from ingest.guard import GuardPolicy, Shortage, shortages
from storage.store import ObjectStore

FREE = Gauge(
    name="duckmesh_disk_free_bytes", help_text="Free bytes of the disk that holds this.", labels=("directory",)
)
SIZE = Gauge(name="duckmesh_disk_size_bytes", help_text="Size of the disk that holds this.", labels=("directory",))
GUARD = Gauge(
    name="duckmesh_writes_refused",
    help_text="1 while writes are refused because the service is short of this.",
    labels=("short_of",),
)
GAUGES = (FREE, SIZE, GUARD)


def read_disks(directories: Mapping[str, Path]) -> Iterator[GaugeMetricFamily]:
    """The room where each of these directories is, or will be."""
    found = {name: shutil.disk_usage(_there(path)) for name, path in directories.items()}
    yield FREE.by({(name,): usage.free for name, usage in found.items()})
    yield SIZE.by({(name,): usage.total for name, usage in found.items()})


def read_guard(policy: GuardPolicy) -> Iterator[GaugeMetricFamily]:
    """1 for each shortage that there is, 0 for the others: true with nobody writing."""
    found = shortages(policy)
    yield GUARD.by({(shortage.value,): shortage in found for shortage in Shortage})


def read_store(store: ObjectStore) -> Iterator[GaugeMetricFamily]:
    """The object store answers, or this raises: that it is a source is all that is shown of it."""
    store.ping()
    return iter(())


def _there(directory: Path) -> Path:
    return next(path for path in (directory, *directory.parents) if path.exists())
