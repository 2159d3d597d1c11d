"""The configuration for a Prometheus beside the stack."""

import json
from pathlib import Path

from duckmesh.devstack.prometheus import SOURCE, write_configuration


def test_the_stack_s_own_addresses_take_the_place_of_the_examples(tmp_path: Path) -> None:
    directory = tmp_path / "prometheus"
    for port in (1, 2):  # once more, as at the next start
        config = write_configuration(
            directory, base_url=f"http://127.0.0.1:{port}", metrics_urls={"beat": "http://127.0.0.1:3/metrics"}
        )
    assert config.read_text() == (SOURCE / "prometheus.yml").read_text()
    targets = {path.name: json.loads(path.read_text()) for path in (directory / "targets").iterdir()}
    assert targets == {
        "api.yml": [{"targets": ["127.0.0.1:2"], "labels": {}}],
        "workers.yml": [{"targets": ["127.0.0.1:3"], "labels": {"service": "beat"}}],
        "alertmanager.yml": [],
    }
    assert {path.name for path in (SOURCE / "targets").iterdir()} == set(targets)
    assert {path.name for path in (SOURCE / "rules").iterdir()} == {
        path.name for path in (directory / "rules").iterdir()
    }
