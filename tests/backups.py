"""Backups of the test's database, and other databases to restore them into."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from django.conf import settings
from django.db import connection

from maintenance.backup.encryption import backup_key
from maintenance.backup.manifest import Manifest
from maintenance.backup.taking import BackupPolicy, take_backup
from maintenance.job import Workplace
from maintenance.postgres.databases import connected_to
from maintenance.postgres.programs import find_programs
from maintenance.restore.restoring import Restored, RestorePolicy, restore_backup
from tests.clusters import query
from tests.lake import Lake

PROGRAMS = find_programs(None)


class Steps:
    """Hears the steps of a job."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.facts: dict[str, dict[str, object]] = {}

    def __call__(self, name: str, /, **facts: object) -> None:
        self.names.append(name)
        self.facts[name] = facts


def workplace(lake: Lake) -> Workplace:
    """The lake's store."""
    return Workplace(store=lake.store, scratch=lake.root / "scratch")


def back_up(lake: Lake, root: Path, *, with_data: bool = False, key: str = "", steps: Steps | None = None) -> Manifest:
    """A backup of the connected catalog."""
    policy = BackupPolicy(programs=PROGRAMS, key=backup_key(key), with_data=with_data)
    return take_backup(root=root, place=workplace(lake), policy=policy, told=steps or Steps())


def restore(
    lake: Lake,
    root: Path,
    *,
    name: str | None = None,
    key: str = "",
    force: bool = False,
    take_over: bool = False,
    allow_missing: bool = False,
    steps: Steps | None = None,
) -> Restored:
    """The backup, restored into the connected database."""
    policy = RestorePolicy(
        application=connection.settings_dict["USER"],
        programs=PROGRAMS,
        key=backup_key(key),
        force=force,
        take_over=take_over,
        allow_missing=allow_missing,
    )
    return restore_backup(root=root, name=name, place=workplace(lake), policy=policy, told=steps or Steps())


@contextmanager
def second_database() -> Iterator[str]:
    """The name of a database that does not exist yet; it is this thread's for the block, and gone after it."""
    name = f"second_{uuid.uuid4().hex[:12]}"
    try:
        with connected_to(name):
            yield name
    finally:
        for found in databases(name):
            query(address("postgres"), f'DROP DATABASE "{found}" WITH (FORCE)')


def databases(prefix: str) -> list[str]:
    """The server's databases whose names begin so."""
    return [
        row[0]
        for row in query(address("postgres"), f"SELECT datname FROM pg_database WHERE starts_with(datname, '{prefix}')")
    ]


def address(database: str) -> str:
    """The URL of a database of the test's server."""
    return f"{settings.DUCKMESH.database_url.rsplit('/', 1)[0]}/{database}"
