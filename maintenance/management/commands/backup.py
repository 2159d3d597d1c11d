"""`manage.py backup DIR [--with-data] | --list | --drop NAME`"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import CommandParser

from catalog.management.base import Outcome, ServiceCommand
from maintenance.backup.encryption import backup_key
from maintenance.backup.keeping import drop_backup
from maintenance.backup.listing import BackupInfo, list_backups
from maintenance.backup.manifest import Manifest
from maintenance.backup.taking import BackupPolicy, take_backup
from maintenance.job import Workplace
from maintenance.management.steps import tell
from maintenance.postgres.programs import find_programs
from storage.factory import StoreSettings, open_store


class Command(ServiceCommand):
    """Take, list or drop backups."""

    owners = True
    help = (
        "Take a backup into the directory DIR: a dump of the catalog and the list of the objects that it names, which"
        " then stay in the store until the backup is dropped. docs/backup.md says how it is restored."
    )

    def declare(self, parser: CommandParser) -> None:
        parser.add_argument("directory", metavar="DIR", type=Path, help="The directory of the backups.")
        which = parser.add_mutually_exclusive_group()
        which.add_argument("--with-data", action="store_true", help="Copy the objects too, those that are not there.")
        which.add_argument("--list", action="store_true", help="Show what backups there are, and take none.")
        which.add_argument("--drop", metavar="NAME", help="Remove the backup of this name, and take none.")

    def perform(self, options: Mapping[str, Any]) -> Outcome:
        root: Path = options["directory"]
        if options["list"]:
            return _list(root)
        if options["drop"]:
            freed = drop_backup(root=root, name=options["drop"])
            document = {"dropped": options["drop"], "freed_bytes": freed}
            return Outcome(document=document, lines=[f"{options['drop']} is dropped; {freed} bytes of objects went."])
        config = settings.DUCKMESH
        manifest = take_backup(
            root=root,
            place=Workplace(store=open_store(StoreSettings.of(config)), scratch=config.home / "scratch"),
            policy=BackupPolicy(
                programs=find_programs(config.postgres_programs),
                key=backup_key(config.backup_key),
                with_data=options["with_data"],
            ),
            told=tell,
        )
        return Outcome(document=_document(manifest), lines=[f"{manifest.name}: {_size(manifest)}"])


def _list(root: Path) -> Outcome:
    found = list_backups(root)
    return Outcome(document=[asdict(info) for info in found], lines=[_line(info) for info in found] or ["No backup."])


def _document(manifest: Manifest) -> dict[str, Any]:
    return {
        "name": manifest.name,
        "dumped_at": manifest.dumped_at.isoformat(),
        "incarnation": manifest.incarnation,
        "dump_bytes": manifest.dump.size,
        "object_count": manifest.object_count,
        "object_bytes": manifest.object_bytes,
        "with_data": manifest.contents is not None,
        "encrypted": manifest.encrypted,
    }


def _size(manifest: Manifest) -> str:
    data = "with their contents" if manifest.contents is not None else "which stay in the store"
    return f"{manifest.dump.size} bytes of catalog, {manifest.object_count} objects, {data}."


def _line(info: BackupInfo) -> str:
    if info.dumped_at is None or info.dump_bytes is None:
        return f"{info.name}  {info.state}"
    data = "with data" if info.with_data else "without data"
    sealed = ", encrypted" if info.encrypted else ""
    return f"{info.name}  {info.state}  {info.dump_bytes} bytes, {info.object_count} objects, {data}{sealed}"
