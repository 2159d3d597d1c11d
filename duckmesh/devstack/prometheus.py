"""A Prometheus configuration that scrapes the running stack: deploy/prometheus with the stack's own addresses."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from duckmesh.kernel.config import ROOT

SOURCE = ROOT / "deploy" / "prometheus"


def write_configuration(
    directory: Path, *, base_url: str, metrics_urls: Mapping[str, str], alertmanagers: tuple[str, ...] = ()
) -> Path:
    """`directory` holds a configuration for this API, these workers and Alertmanagers (host and port); its file.

    JSON is YAML, so the targets' files need no library.
    """
    shutil.rmtree(directory, ignore_errors=True)
    (directory / "targets").mkdir(parents=True)
    shutil.copy(SOURCE / "prometheus.yml", directory)
    shutil.copytree(SOURCE / "rules", directory / "rules")
    workers = [_target(urlsplit(url).netloc, service=name) for name, url in metrics_urls.items()]
    for name, targets in {
        "api": [_target(urlsplit(base_url).netloc)],
        "workers": workers,
        "alertmanager": [_target(address) for address in alertmanagers],
    }.items():
        (directory / "targets" / f"{name}.yml").write_text(json.dumps(targets, indent=2), encoding="utf-8")
    return directory / "prometheus.yml"


def _target(address: str, **labels: str) -> dict[str, object]:
    return {"targets": [address], "labels": labels}
