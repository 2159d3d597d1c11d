"""What is refused beyond the loopback interface, and what `manage.py check` says of it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from duckmesh.checks import broker_messages
from duckmesh.dangers import dangers
from duckmesh.kernel.config import ROOT, load_config

SECRET = "0123456789abcdefghijklmnopqrstuvwxyz-0123456789-ABCDEF"
PUBLIC = {"DUCKMESH_HOST": "0.0.0.0", "DUCKMESH_HTTPS": "1", "DUCKMESH_SECRET_KEY": SECRET}


def found(tmp_path: Path, **given: str) -> set[str]:
    """The ids of the dangers of these settings over those of a good deployment."""
    environ = PUBLIC | {f"DUCKMESH_{name.upper()}": value for name, value in given.items()}
    return {danger.id for danger in dangers(load_config(environ | {"DUCKMESH_HOME": str(tmp_path)}))}


def test_a_good_deployment_has_none(tmp_path: Path) -> None:
    assert found(tmp_path) == set()
    assert found(tmp_path, https="0", plain_http="1") == set()


@pytest.mark.parametrize(
    ("setting", "value", "id"),
    [
        ("secret_key", "", "duckmesh.E101"),
        ("secret_key", "changeme", "duckmesh.E102"),
        ("secret_key", "a" * 64, "duckmesh.E102"),
        ("debug", "1", "duckmesh.E103"),
        ("failpoints", "run.after_claim=kill", "duckmesh.E104"),
        ("allowed_hosts", "example.org, *", "duckmesh.E105"),
        ("allow_unsealed_sql", "1", "duckmesh.E106"),
        ("https", "0", "duckmesh.E107"),
    ],
)
def test_a_danger_is_named_beyond_the_loopback_and_only_there(
    tmp_path: Path, setting: str, value: str, id: str
) -> None:
    for host in ("0.0.0.0", "::", "10.0.0.7", "duckmesh.example.org"):
        assert found(tmp_path, **{setting: value, "host": host}) == {id}
    for host in ("127.0.0.1", "127.0.1.1", "::1", "localhost"):
        assert found(tmp_path, **{setting: value, "host": host}) == set()


def test_a_program_is_not_served_with_a_danger(tmp_path: Path) -> None:
    run = _run(tmp_path, "-m", "duckmesh.serve", "api", DUCKMESH_SECRET_KEY="changeme")
    assert run.returncode == 1
    assert "DUCKMESH_SECRET_KEY can be guessed" in run.stderr
    assert "changeme" not in run.stderr


def test_the_checks_name_it_with_what_to_do(tmp_path: Path) -> None:
    run = _run(tmp_path, "manage.py", "check", DUCKMESH_DEBUG="1")
    assert run.returncode == 1
    assert "(duckmesh.E103)" in run.stderr
    assert "HINT: Unset it" in run.stderr


def test_the_checks_of_a_deployment_are_clean(tmp_path: Path) -> None:
    store = {
        "DUCKMESH_OBJECT_STORE_URL": "s3://bucket/lake",
        "DUCKMESH_S3_ACCESS_KEY": "a",
        "DUCKMESH_S3_SECRET_KEY": "b",
    }
    check = ("manage.py", "check", "--deploy", "--fail-level", "WARNING")
    run = _run(tmp_path, *check, **store)
    assert run.returncode == 1
    assert "(duckmesh.W203)" in run.stderr, "one role for everything"
    run = _run(tmp_path, *check, **store, DUCKMESH_OWNER_DATABASE_URL="postgresql://owner@127.0.0.1/duckmesh")
    assert run.returncode == 0, run.stderr
    assert "identified no issues" in run.stdout


def test_a_message_must_not_come_again_while_its_task_runs() -> None:
    assert broker_messages(visibility_timeout=7_260, hard_limits=[900, 7_200]) == []
    assert [message.id for message in broker_messages(visibility_timeout=7_200, hard_limits=[900, 7_200])] == [
        "duckmesh.E110"
    ]


def test_a_safety_age_below_the_longest_query_stops_every_program(tmp_path: Path) -> None:
    run = _run(tmp_path, "-m", "duckmesh.serve", "api", DUCKMESH_GC_SAFETY_AGE="2m")
    assert run.returncode == 1
    assert "DUCKMESH_GC_SAFETY_AGE" in run.stderr


def _run(tmp_path: Path, *arguments: str, **given: str) -> "subprocess.CompletedProcess[str]":
    environ = {"PATH": os.environ["PATH"], "DUCKMESH_HOME": str(tmp_path), **PUBLIC, **given}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False, timeout=60)
