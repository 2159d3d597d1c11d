"""Before anything of Django is read, the test run gets its own servers."""

import os
import sys
from collections.abc import Iterator

import pytest
from django.conf import settings
from django.test import TransactionTestCase

from duckmesh.devstack.errors import StackError
from duckmesh.kernel.acting import act_for_all_by_default
from tests.servers import start_servers

if settings.configured:
    pytest.exit("Django's settings were read before the tests' servers started: unset DJANGO_SETTINGS_MODULE.", 4)
try:
    start_servers()
except StackError as exc:
    pytest.exit(f"The servers of the tests did not start. {exc}", 4)

act_for_all_by_default()  # as a worker or a command does; requests do not
assert settings.DUCKMESH  # read now, so that pytest-django finds them configured


def pytest_addoption(parser: pytest.Parser) -> None:
    """Which stack the acceptance tests hold against the contract."""
    parser.addoption("--stack", choices=("embedded", "compose", "scaled"), default="embedded")


def pytest_configure(config: pytest.Config) -> None:
    """The processes of `-n` start servers of their own, so they must not find these when they begin."""
    if getattr(config.option, "numprocesses", None):
        del os.environ["DJANGO_SETTINGS_MODULE"]


@pytest.fixture(autouse=True, scope="session")
def emptied_quickly() -> Iterator[None]:
    """Tests that commit leave an empty database, in our way instead of Django's."""
    from tests.emptying import empty_database  # its models cannot be imported before pytest-django's setup

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TransactionTestCase, "_fixture_teardown", lambda _case: empty_database())
        yield


@pytest.fixture(autouse=True, scope="module")
def same_environment() -> Iterator[None]:
    """What a file leaves in the environment, each program that a later file of this process starts would see."""
    before = _environment()
    yield
    assert _environment() == before, "this file changed the environment of those after it: use monkeypatch.setenv"


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}


@pytest.fixture(autouse=True)
def nobodys_store() -> Iterator[None]:
    """Each test's catalog is a new one, so the store in the home, which they share, belongs to none of them."""
    yield
    (settings.DUCKMESH.home / "objects" / "_duckmesh" / "owner.json").unlink(missing_ok=True)


@pytest.fixture(autouse=True, scope="module")
def nothing_held() -> Iterator[None]:
    """Threads that a file's requests have started in this process end with it: the next may not use the database."""
    yield
    if (process := sys.modules.get("api.process")) is not None:
        process.release()
