"""The rules, the alerts and their routes, by the tools that come with Prometheus and Alertmanager."""

import subprocess
from pathlib import Path

import pytest
import yaml

from duckmesh.kernel.config import ROOT
from tests.runbooks.pages import alerts

DEPLOY = ROOT / "deploy"
TESTS = sorted((DEPLOY / "prometheus" / "tests").glob("*.yml"))
ALERTMANAGER = DEPLOY / "alertmanager" / "alertmanager.yml"
RUNBOOKS = {path.stem for path in (ROOT / "runbooks").glob("*.md")}

pytestmark = pytest.mark.ops


def run(*command: str | Path) -> str:
    """What the command prints; it must succeed."""
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_configuration_is_valid() -> None:
    run("promtool", "check", "config", DEPLOY / "prometheus" / "prometheus.yml")
    run("amtool", "check-config", ALERTMANAGER)


def test_every_alert_fires_and_is_silent_as_it_should() -> None:
    run("promtool", "test", "rules", *TESTS)


def test_every_alert_says_what_is_wrong_how_bad_it_is_and_what_to_do() -> None:
    found = list(alerts())
    assert len({alert["alert"] for alert in found}) == len(found)
    for alert in found:
        assert alert["labels"]["severity"] in ("critical", "warning"), alert["alert"]
        assert set(alert["annotations"]) == {"summary", "description", "runbook"}, alert["alert"]
        page = Path(alert["annotations"]["runbook"])
        assert page.parent == Path("runbooks")
        assert page.stem in RUNBOOKS, alert["alert"]


@pytest.mark.parametrize(("severity", "receiver"), [("critical", "pager"), ("warning", "tickets")])
def test_every_alert_goes_where_its_severity_says(severity: str, receiver: str) -> None:
    names = [alert["alert"] for alert in alerts() if alert["labels"]["severity"] == severity]
    assert names
    for name in names:
        labels = (f"alertname={name}", f"severity={severity}")
        config = f"--config.file={ALERTMANAGER}"
        assert run("amtool", "config", "routes", "test", config, f"--verify.receivers={receiver}", *labels)


def test_what_alerts_silence_are_alerts() -> None:
    names = {alert["alert"] for alert in alerts()}
    config = yaml.safe_load(ALERTMANAGER.read_text())
    for rule in config["inhibit_rules"]:
        for matcher in (*rule["source_matchers"], *rule["target_matchers"]):
            assert matcher.startswith(("alertname", "queue")), matcher
        for source in rule["source_matchers"]:
            if source.startswith("alertname"):
                assert source.split('"')[1] in names
