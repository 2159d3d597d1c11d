"""Taking a backup.

The hold comes first, then the dump, which is of one instant, then what it names. The manifest makes it a backup, its
directory's name a finished one; the hold is narrowed last. What a crash leaves is `keeping`'s to clear.
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from catalog.identity import identity
from duckmesh.kernel import clock
from duckmesh.kernel.failpoints import failpoint
from maintenance.backup import keeping
from maintenance.backup.copying import content_name, copy_content, identify
from maintenance.backup.encryption import SUFFIX, BackupKey, seal
from maintenance.backup.files import FileFacts, Measured, facts_of, new_file
from maintenance.backup.manifest import Manifest, read_objects, write_manifest, write_objects
from maintenance.backup.named import DumpFacts, dump_facts, named_objects
from maintenance.backup.place import BackupPlace, new_name, opened
from maintenance.job import Workplace
from maintenance.postgres.databases import Exported, exported, server_session
from maintenance.postgres.programs import Programs, dumping

Told = Callable[..., None]
"""Called with the name of a step that was done, and with facts about it."""


@dataclass(frozen=True, kw_only=True)
class BackupPolicy:
    """What takes a dump, what encrypts it, and whether the objects are copied too."""

    programs: Programs
    key: BackupKey | None = None
    with_data: bool = False


@dataclass(frozen=True, kw_only=True)
class _Objects:
    """The list of a backup's objects, as it lies in the directory."""

    count: int
    size_bytes: int
    copied_bytes: int
    listed: FileFacts
    contents: FileFacts | None


def take_backup(*, root: Path, place: Workplace, policy: BackupPolicy, told: Told) -> Manifest:
    """There is one more finished backup in the directory, and what it names stays in the store until it is dropped."""
    identity()  # a catalog whom nobody has asked for it has none yet
    place.scratch.mkdir(parents=True, exist_ok=True)
    with opened(root) as directory:
        for cleared in keeping.tidy(directory):
            told("cleared", backup=cleared)
        name, started = new_name(clock.now()), time.monotonic()
        draft = directory.begin(name)
        failpoint("backup.after_directory")
        keeping.begin(name, root, with_data=policy.with_data, encrypted=policy.key is not None)
        failpoint("backup.after_hold")
        try:
            manifest, copied_bytes = _fill(draft, directory, name=name, place=place, policy=policy, told=told)
            directory.finish(name)
        except BaseException as exc:
            directory.unfinish(name)  # without its hold it must not be restored from
            directory.remove_draft(name)
            keeping.fail(name, exc)
            raise
        failpoint("backup.after_finish")
        seconds = round(time.monotonic() - started, 3)
        keeping.complete(manifest, copied_bytes=copied_bytes, seconds=seconds)
        told("finished", backup=name, seconds=seconds)
        return manifest


def _fill(
    draft: Path, directory: BackupPlace, *, name: str, place: Workplace, policy: BackupPolicy, told: Told
) -> tuple[Manifest, int]:
    """The draft holds a whole backup; how many bytes of contents were copied for it."""
    suffix = SUFFIX if policy.key is not None else ""
    with tempfile.TemporaryFile(dir=place.scratch) as named:
        with exported() as instant:
            with instant.read():
                facts = dump_facts()
                write_objects(named, named_objects())
            failpoint("backup.after_instant")
            dump = _dump(draft / f"catalog.dump{suffix}", instant, policy)
        told("dumped", at=instant.at.isoformat(), bytes=dump.size)
        failpoint("backup.after_dump")
        named.seek(0)
        objects = _objects(draft / f"objects.jsonl{suffix}", named, directory, place=place, policy=policy)
    told("objects", objects=objects.count, bytes=objects.size_bytes, copied_bytes=objects.copied_bytes)
    failpoint("backup.after_objects")
    manifest = _manifest(name, facts, instant, dump=dump, objects=objects, policy=policy)
    write_manifest(draft, manifest)
    failpoint("backup.after_manifest")
    return manifest, objects.copied_bytes


def _dump(path: Path, instant: Exported, policy: BackupPolicy) -> FileFacts:
    with server_session() as server:
        version = server.version
    with new_file(path) as file:
        written = Measured(file)
        with dumping(policy.programs, snapshot=instant.snapshot, server=version, compress=True) as dump:
            seal(dump, written, key=policy.key)
    return facts_of(path, written)


def _objects(
    path: Path, named: IO[bytes], directory: BackupPlace, *, place: Workplace, policy: BackupPolicy
) -> _Objects:
    """The list is in the file `path`, each object with its SHA-256; with data their contents are in the directory."""
    count = size_bytes = copied_bytes = 0
    contents: set[str] = set()
    with tempfile.TemporaryFile(dir=place.scratch) as whole:
        for each in read_objects(named):
            known = identify(each, store=place.store, scratch=place.scratch)
            write_objects(whole, [known])
            count, size_bytes = count + 1, size_bytes + known.size
            if policy.with_data and known.sha256 is not None:
                copied_bytes += copy_content(
                    known, store=place.store, contents=directory.objects, key=policy.key, scratch=place.scratch
                )
                contents.add(content_name(known.sha256, encrypted=policy.key is not None))
        whole.seek(0)
        with new_file(path) as file:
            written = Measured(file)
            seal(whole, written, key=policy.key)
    return _Objects(
        count=count,
        size_bytes=size_bytes,
        copied_bytes=copied_bytes,
        listed=facts_of(path, written),
        contents=_list_contents(path.parent / "contents.txt", contents) if policy.with_data else None,
    )


def _list_contents(path: Path, names: set[str]) -> FileFacts:
    with new_file(path) as file:
        written = Measured(file)
        for name in sorted(names):
            written.write(name.encode() + b"\n")
    return facts_of(path, written)


def _manifest(
    name: str, facts: DumpFacts, instant: Exported, *, dump: FileFacts, objects: _Objects, policy: BackupPolicy
) -> Manifest:
    return Manifest(
        name=name,
        dumped_at=instant.at,
        catalog_id=facts.catalog_id,
        incarnation=facts.incarnation,
        migrations=facts.migrations,
        encrypted=policy.key is not None,
        object_count=objects.count,
        object_bytes=objects.size_bytes,
        dump=dump,
        objects=objects.listed,
        contents=objects.contents,
    )
