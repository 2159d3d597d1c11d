"""deploy/Dockerfile and deploy/compose.yaml, as far as they can be held against their formats without Docker."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from duckmesh.devstack.postgres import SETTINGS
from duckmesh.kernel.config import PREFIX, ROOT, Config
from tests import compose
from tests.deploy.conftest import Tool

pytestmark = pytest.mark.deploy

OURS = (
    "roles",
    "migrate",
    "runners",
    "api",
    "worker-materialize",
    "worker-maintenance",
    "worker-drill",
    "beat",
    "flower",
)
DOCKERFILE = (compose.DEPLOY / "Dockerfile").read_text()
READ_COMPOSE = (
    "import sys; from compose_spec import PyCompose; print(*PyCompose.from_yaml(sys.stdin.read()).service_names())"
)


@pytest.fixture(scope="module")
def document(variables: dict[str, str]) -> dict[str, Any]:
    """The file as it is with every secret set."""
    return compose.read(variables)


def test_the_linter_of_dockerfiles_finds_nothing(run_tool: Tool) -> None:
    found = run_tool("hadolint", "--failure-threshold", "style", "deploy/Dockerfile")
    assert (found.returncode, found.stdout) == (0, "")


def test_the_linter_would_find_something(run_tool: Tool) -> None:
    assert "DL3006" in run_tool("hadolint", "-", stdin="FROM debian\n").stdout


def test_the_image_is_made_in_stages_of_hashed_wheels_and_runs_as_nobody_special() -> None:
    bases = re.findall(r"^FROM (\S+)", DOCKERFILE, re.M)
    assert len(bases) == 3
    assert all(re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", base) for base in bases)
    assert "--require-hashes --only-binary :all:" in DOCKERFILE
    last = DOCKERFILE.rpartition("\nFROM ")[2]
    user = re.search(r"^USER (\d+):(\d+)$", last, re.M)
    assert user is not None
    assert "0" not in user.groups()
    assert "pip install" not in last
    assert re.search(r"^HEALTHCHECK ", last, re.M)


def test_the_image_holds_every_package_and_every_file_that_is_copied_exists() -> None:
    copied = re.findall(r"^COPY (?!--from)(\S+) ", DOCKERFILE, re.M)
    assert all((ROOT / name).exists() for name in copied)
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
    assert packages <= set(copied)
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert set(copied) <= allowed


def test_the_specification_of_compose_takes_the_file(run_tool: Tool, document: dict[str, Any]) -> None:
    read = run_tool("python", "-c", READ_COMPOSE, stdin=yaml.safe_dump(document))
    assert read.returncode == 0, read.stderr
    assert set(read.stdout.split()) == set(document["services"])
    document_with_a_typo = {"services": {"api": {"image": "a", "comand": "b"}}}
    assert run_tool("python", "-c", READ_COMPOSE, stdin=json.dumps(document_with_a_typo)).returncode != 0


def test_without_its_secrets_nothing_starts(variables: dict[str, str]) -> None:
    for name in variables:
        with pytest.raises(compose.Missing, match=name):
            compose.read({**variables, name: ""})


def test_every_secret_of_the_file_comes_from_a_variable(variables: dict[str, str]) -> None:
    plain = yaml.safe_load((compose.DEPLOY / "compose.yaml").read_text())
    for service in plain["services"].values():
        for name, value in service.get("environment", {}).items():
            if re.search("SECRET|PASSWORD|AUTH|ACCESS_KEY", name):
                assert re.fullmatch(r"(operator:)?\$\{[A-Z_]+:\?[^}]+\}", value), name


def test_secrets_are_made_once_and_only_their_owner_reads_them(tmp_path: Path, variables: dict[str, str]) -> None:
    script = tmp_path / "secrets"
    script.write_text((compose.DEPLOY / "secrets").read_text())
    subprocess.run(["sh", script], check=True)
    made = compose.env_file(tmp_path / ".env")
    assert set(made) == set(variables)
    assert all(len(value) == 64 for name, value in made.items() if name != "MINIO_ROOT_USER")
    assert len(set(made.values())) == len(made)
    assert (tmp_path / ".env").stat().st_mode & 0o077 == 0
    subprocess.run(["sh", script], check=True)
    assert compose.env_file(tmp_path / ".env") == made


def test_every_setting_that_the_file_names_is_one(document: dict[str, Any]) -> None:
    known = {PREFIX + name.upper() for name in Config.model_fields}
    for service in document["services"].values():
        given = {name for name in service.get("environment", {}) if name.startswith(PREFIX)}
        assert given <= known


def test_postgresql_logs_no_statement(document: dict[str, Any]) -> None:
    said = dict(word.split("=") for word in document["services"]["postgres"]["command"] if "=" in word)
    logging = {
        name: value for name, value in SETTINGS.items() if name in ("log_min_error_statement", "log_error_verbosity")
    }
    assert len(logging) == 2
    assert logging.items() <= said.items()


def test_every_service_has_a_health_check_and_comes_back(document: dict[str, Any]) -> None:
    for name, service in document["services"].items():
        if name in ("roles", "migrate"):
            assert service["restart"] == "no"
            continue
        assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL"), name
        assert service["restart"] == "unless-stopped", name
        assert "build" in service or re.search(r":[\w.-]+$", service["image"]), name


def test_ports_are_published_to_this_machine_only(document: dict[str, Any]) -> None:
    for name, service in document["services"].items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), name


def test_our_services_hold_no_privilege_and_get_more_time_than_their_grace(document: dict[str, Any]) -> None:
    for name in OURS:
        service = document["services"][name]
        assert service["cap_drop"] == ["ALL"], name
        assert service["read_only"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
    environment = document["services"]["api"]["environment"]
    assert environment["DUCKMESH_STOP_GRACE"] == "30s"
    assert document["services"]["api"]["stop_grace_period"] == "40s"


def test_only_migrations_and_drills_know_the_owner(document: dict[str, Any]) -> None:
    told = {
        name: {setting for setting in service.get("environment", {}) if setting.endswith("DATABASE_URL")}
        for name, service in document["services"].items()
    }
    knows = {name for name, settings in told.items() if "DUCKMESH_OWNER_DATABASE_URL" in settings}
    assert knows == {"roles", "migrate", "worker-drill"}
    assert {name for name, settings in told.items() if "SUPERUSER_DATABASE_URL" in settings} == {"roles"}


def test_what_forks_the_runners_has_no_secret_and_no_network(document: dict[str, Any]) -> None:
    runners = document["services"]["runners"]
    assert runners["environment"] == {"DUCKMESH_HOST": "127.0.0.1"}
    assert "env_file" not in runners
    assert runners["network_mode"] == "none"
    for api, its_runners in (("api", "runners"), ("api-2", "runners-2")):
        services = document["services"]
        assert services[api]["pid"] == f"service:{its_runners}"
        assert services[api]["volumes"] == services[its_runners]["volumes"]


def test_what_is_scraped_is_a_service_and_has_its_port(document: dict[str, Any]) -> None:
    targets = [entry for path in (compose.DEPLOY / "prometheus" / "targets").glob("*.yml") for entry in _targets(path)]
    assert len(targets) >= 6
    for target in targets:
        name, port = target.split(":")
        service = document["services"][name]
        if name != "alertmanager":
            assert port in (
                service["environment"]["DUCKMESH_PORT"],
                service["environment"]["DUCKMESH_WORKER_METRICS_PORT"],
            )
            assert name != "api" or "api" in service["environment"]["DUCKMESH_ALLOWED_HOSTS"].split(",")


def _targets(path: Path) -> list[str]:
    return [target for entry in yaml.safe_load(path.read_text()) for target in entry["targets"]]


def test_a_program_that_does_not_exist_is_refused() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "duckmesh.serve", "worker-nothing-2"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 2
    assert "There is no program worker-nothing-2" in run.stderr
