"""Restoring a backup into the configured database.

Everything happens in a scratch database beside it: load, migrate, put objects back, begin a new incarnation. Then the
two change names, both at once: whoever sees the restored catalog sees the new incarnation, and a restore that dies
anywhere before has changed nothing. What was in the database before stays, under another name.
"""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

import structlog
from django.db import connection

from catalog.identity import take_over
from duckmesh.kernel import clock
from duckmesh.kernel.failpoints import failpoint
from duckmesh.postgresql.roles import grant
from maintenance.backup.copying import absent, put_back
from maintenance.backup.encryption import BackupKey, unseal
from maintenance.backup.errors import RestoreObjectsMissing, RestoreTargetNotEmpty
from maintenance.backup.keeping import complete
from maintenance.backup.manifest import BackupObject, Manifest, read_manifest, read_objects
from maintenance.backup.place import BackupPlace
from maintenance.backup.taking import Told
from maintenance.job import Workplace
from maintenance.postgres.databases import Server, connected_to, server_session
from maintenance.postgres.programs import Programs, load
from maintenance.restore.loaded import begin_life, migrate, require_known

log = structlog.get_logger(__name__)

_SHOWN = 10


@dataclass(frozen=True, kw_only=True)
class RestorePolicy:
    """What the operator allows: to replace what is in the database, to own the store, to do without some objects.

    `application`: the role that the programs connect as.
    """

    programs: Programs
    application: str
    key: BackupKey | None = None
    force: bool = False
    take_over: bool = False
    allow_missing: bool = False


@dataclass(frozen=True, kw_only=True)
class Restored:
    """What was restored. `former` is the name of the database that was there before, if there was one."""

    manifest: Manifest
    former: str | None
    migrated: tuple[str, ...]
    put_back: int
    missing: int
    seconds: float


def restore_backup(*, root: Path, name: str | None, place: Workplace, policy: RestorePolicy, told: Told) -> Restored:
    """The configured database is the catalog of this backup, or of the newest one, in a new incarnation."""
    started = time.monotonic()
    directory = BackupPlace(root=root)
    chosen = directory.choose(name)
    path = directory.path(chosen)
    manifest = read_manifest(path)
    dump, listed = manifest.dump.check(path), manifest.objects.check(path)
    told("checked", backup=chosen)
    require_known(manifest.migrations)
    place.scratch.mkdir(parents=True, exist_ok=True)
    with server_session() as server, _list(listed, manifest, place=place, key=policy.key) as objects:
        for leftover in server.drop_leftovers("restore"):
            told("cleared", database=leftover)
        there = _require_target(server, force=policy.force)
        scratch = server.scratch_name("restore")
        try:
            server.create_scratch(scratch)
            _load(dump, manifest, server, scratch, policy)
            failpoint("restore.after_load")
            told("loaded", bytes=manifest.dump.size)
            with connected_to(scratch):
                migrated = migrate()
                grant(application=policy.application)
                failpoint("restore.after_migrate")
                put, missing = _objects(objects, directory, manifest, place=place, policy=policy)
                failpoint("restore.after_objects")
                begin_life(dumped_at=manifest.dumped_at, backup=chosen)
                complete(manifest)
                with connection.cursor() as cursor:
                    cursor.execute("ANALYZE")
            told("prepared", migrated=len(migrated), put_back=put, missing=missing)
            failpoint("restore.before_swap")
            former = f"{server.database[:40]}_before_{clock.now():%Y%m%d%H%M%S}" if there else None
            connection.close()
            server.swap_in(scratch, keep_as=former or "")
        except BaseException:
            server.drop_scratch(scratch)
            raise
    failpoint("restore.after_swap")
    told("visible", former=former)
    log.warning("backup_restored", backup=chosen, migrated=len(migrated), put_back=put, missing=missing)
    if policy.take_over:
        take_over(place.store)
        told("store_taken_over")
    return Restored(
        manifest=manifest,
        former=former,
        migrated=tuple(migrated),
        put_back=put,
        missing=missing,
        seconds=round(time.monotonic() - started, 3),
    )


_RELATIONS = """
SELECT count(*), coalesce(bool_or(nspname = 'public' AND relname = 'tenant'), false)
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND nspname NOT IN ('pg_catalog', 'information_schema')
   AND nspname NOT LIKE 'pg_toast%'
"""


def _require_target(server: Server, *, force: bool) -> bool:
    """Whether the configured database exists. Raises `RestoreTargetNotEmpty` if somebody would miss it, or is forced.

    One that holds DuckMesh's tables and no tenant is as good as empty.
    """
    if not server.exists(server.database):
        return False
    with connection.cursor() as cursor:
        cursor.execute(_RELATIONS)
        count, ours = cursor.fetchone()
        if ours:
            cursor.execute("SELECT count(*) FROM tenant")
            count = cursor.fetchone()[0]
    if count and not force:
        what = "tenants" if ours else "tables"
        raise RestoreTargetNotEmpty(
            f"The database {server.database} holds {count} {what}. With --force the backup takes its place, and it"
            " stays under another name.",
            **{what: count},
        )
    return True


def _load(dump: Path, manifest: Manifest, server: Server, scratch: str, policy: RestorePolicy) -> None:
    with dump.open("rb") as file:
        feed = partial(unseal, file, key=policy.key, encrypted=manifest.encrypted)
        load(policy.programs, database=scratch, server=server.version, feed=feed)


@contextmanager
def _list(listed: Path, manifest: Manifest, *, place: Workplace, key: BackupKey | None) -> Iterator[IO[bytes]]:
    """The backup's list of objects, readable; a wrong key is told before anything is done."""
    with tempfile.TemporaryFile(dir=place.scratch) as plain:
        with listed.open("rb") as sealed:
            unseal(sealed, plain, key=key, encrypted=manifest.encrypted)
        plain.seek(0)
        yield plain


def _objects(
    listed: IO[bytes], directory: BackupPlace, manifest: Manifest, *, place: Workplace, policy: RestorePolicy
) -> tuple[int, int]:
    """How many objects the store lacked and has now, and how many it lacks still. Raises `RestoreObjectsMissing`."""
    put = 0
    missing: list[BackupObject] = []
    for each in absent(read_objects(listed), place.store):
        if manifest.contents is None:
            missing.append(each)
            continue
        put_back(
            each,
            store=place.store,
            contents=directory.objects,
            key=policy.key,
            encrypted=manifest.encrypted,
            scratch=place.scratch,
        )
        put += 1
    if missing and not policy.allow_missing:
        raise RestoreObjectsMissing(
            f"The store lacks {len(missing)} objects of the backup, which was taken without data."
            " With --allow-missing the catalog is restored all the same; queries that need them will fail.",
            count=len(missing),
            keys=[each.key for each in missing[:_SHOWN]],
        )
    return put, len(missing)
