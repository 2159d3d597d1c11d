"""deploy/helm/duckmesh: linted and rendered by Helm itself, every document held against Kubernetes' schemas."""

import json
from typing import Any

import pytest

from duckmesh.kernel.config import PREFIX, Config
from tests.deploy.conftest import Tool

pytestmark = pytest.mark.deploy

VALUES = {
    "existingSecret": "lake-secrets",
    "ownerSecret": "lake-owner",
    "settings": {"DUCKMESH_OBJECT_STORE_URL": "s3://bucket/lake", "DUCKMESH_ALLOWED_HOSTS": "lake.example.org"},
    "ingress": {"enabled": True, "host": "lake.example.org", "tlsSecret": "lake-tls"},
}


@pytest.fixture(scope="module")
def chart(run_tool: Tool) -> dict[tuple[str, str], dict[str, Any]]:
    """The documents by kind and name; Helm finds nothing to say and the schemas hold."""
    done = _render(run_tool, VALUES)
    assert done["findings"] == []
    return {(one["kind"], one["metadata"]["name"]): one for one in done["documents"]}


def _render(run_tool: Tool, values: dict[str, Any]) -> dict[str, Any]:
    run = run_tool("python", "tests/deploy/render_chart.py", "deploy/helm/duckmesh", stdin=json.dumps(values))
    assert run.returncode == 0, run.stderr[-2_000:]
    rendered: dict[str, Any] = json.loads(run.stdout)
    return rendered


def test_every_program_is_deployed(chart: dict[tuple[str, str], dict[str, Any]]) -> None:
    deployed = {name for kind, name in chart if kind == "Deployment"}
    assert deployed == {
        "lake-api",
        "lake-worker-materialize",
        "lake-worker-maintenance",
        "lake-worker-drill",
        "lake-beat",
    }
    kinds = {kind for kind, _ in chart}
    assert {"Job", "HorizontalPodAutoscaler", "PodDisruptionBudget", "NetworkPolicy", "Ingress", "Service"} <= kinds
    assert "Secret" not in kinds


def test_what_must_be_given_is_asked_for(run_tool: Tool) -> None:
    for missing, said in (("existingSecret", "existingSecret must name"), ("settings", "must be given")):
        values = {name: value for name, value in VALUES.items() if name != missing}
        run = run_tool("python", "tests/deploy/render_chart.py", "deploy/helm/duckmesh", stdin=json.dumps(values))
        assert run.returncode != 0
        assert said in run.stderr


def test_migrations_run_before_the_programs_change(chart: dict[tuple[str, str], dict[str, Any]]) -> None:
    hook = {kind: chart[kind, name]["metadata"]["annotations"] for kind, name in chart if kind in ("Job", "ConfigMap")}
    assert {one["helm.sh/hook"] for one in hook.values()} == {"pre-install,pre-upgrade"}
    assert int(hook["ConfigMap"]["helm.sh/hook-weight"]) < int(hook["Job"]["helm.sh/hook-weight"])


def test_every_pod_is_nobody_special_and_has_its_time_to_end(chart: dict[tuple[str, str], dict[str, Any]]) -> None:
    for (kind, name), document in chart.items():
        if kind not in ("Deployment", "Job"):
            continue
        pod = document["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"], name
        for container in [*pod["containers"], *pod.get("initContainers", [])]:
            assert container["securityContext"]["readOnlyRootFilesystem"], name
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}, name
            assert container["resources"]["limits"]["memory"], name
        if kind == "Deployment":
            assert pod["terminationGracePeriodSeconds"] > 30, name
            assert pod["containers"][0]["livenessProbe"], name


def test_the_runners_are_beside_the_api_without_a_secret(chart: dict[tuple[str, str], dict[str, Any]]) -> None:
    pod = chart["Deployment", "lake-api"]["spec"]["template"]["spec"]
    [runners] = pod["initContainers"]
    assert (runners["restartPolicy"], pod["shareProcessNamespace"]) == ("Always", True)
    assert "envFrom" not in runners
    assert runners["volumeMounts"] == pod["containers"][0]["volumeMounts"]
    assert pod["containers"][0]["readinessProbe"]
    assert pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", "5"]


def test_only_migrations_and_drills_know_the_owner(chart: dict[tuple[str, str], dict[str, Any]]) -> None:
    knows = {
        name
        for (kind, name), document in chart.items()
        if kind in ("Deployment", "Job")
        for container in document["spec"]["template"]["spec"]["containers"]
        if {"secretRef": {"name": "lake-owner"}} in container["envFrom"]
    }
    assert knows == {"lake-migrate", "lake-worker-drill"}


def test_every_setting_is_one(chart: dict[tuple[str, str], dict[str, Any]]) -> None:
    given = set(chart["ConfigMap", "lake-duckmesh"]["data"])
    assert given <= {PREFIX + name.upper() for name in Config.model_fields}
