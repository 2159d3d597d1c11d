"""`manage.py restore DIR [--name NAME] [--force] [--take-over] [--allow-missing]`"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import CommandParser

from catalog.management.base import Outcome, ServiceCommand
from duckmesh.postgresql.address import parts
from maintenance.backup.encryption import backup_key
from maintenance.job import Workplace
from maintenance.management.steps import tell
from maintenance.postgres.programs import find_programs
from maintenance.restore.restoring import Restored, RestorePolicy, restore_backup
from storage.factory import StoreSettings, open_store


class Command(ServiceCommand):
    """Restore a backup."""

    owners = True
    help = (
        "Restore a backup from the directory DIR into the configured database, as a new incarnation of the catalog."
        " Objects that the store lacks are put back if the backup was taken with data."
    )

    def declare(self, parser: CommandParser) -> None:
        parser.add_argument("directory", metavar="DIR", type=Path, help="The directory of the backups.")
        parser.add_argument("--name", metavar="NAME", help="The backup; without it the newest one that is finished.")
        parser.add_argument(
            "--force", action="store_true", help="Take the place of a database with tenants; it stays, renamed."
        )
        parser.add_argument(
            "--take-over", action="store_true", help="Own the object store: the catalog it belonged to is no more."
        )
        parser.add_argument(
            "--allow-missing", action="store_true", help="Restore although objects are missing; some queries will fail."
        )

    def perform(self, options: Mapping[str, Any]) -> Outcome:
        config = settings.DUCKMESH
        restored = restore_backup(
            root=options["directory"],
            name=options["name"],
            place=Workplace(store=open_store(StoreSettings.of(config)), scratch=config.home / "scratch"),
            policy=RestorePolicy(
                programs=find_programs(config.postgres_programs),
                key=backup_key(config.backup_key),
                force=options["force"],
                take_over=options["take_over"],
                allow_missing=options["allow_missing"],
                application=parts(config.database_url)["USER"],
            ),
            told=tell,
        )
        document = {
            "name": restored.manifest.name,
            "dumped_at": restored.manifest.dumped_at.isoformat(),
            "former_database": restored.former,
            "migrated": list(restored.migrated),
            "objects_put_back": restored.put_back,
            "objects_missing": restored.missing,
            "store_taken_over": options["take_over"],
            "seconds": restored.seconds,
        }
        return Outcome(document=document, lines=_lines(restored, took_over=options["take_over"]))


def _lines(restored: Restored, *, took_over: bool) -> list[str]:
    at = f"{restored.manifest.dumped_at:%Y-%m-%d %H:%M:%S} UTC"
    lines = [
        f"The catalog is the one of {at}.",
        "Writes acknowledged after that are not in it: barriers on them answer 409 TOKEN_SCOPE_MISMATCH.",
        "Their senders may send them again with the same keys.",
        "Next: start the services (make up), look at manage.py lag, and run manage.py integrity.",
    ]
    if restored.former:
        lines.append(f"What the database held before is in {restored.former}; drop it when nobody misses it.")
    if not took_over:
        lines.append(
            "Nothing is deleted in the object store until this catalog owns it: when the one it belonged to is gone for"
            " good, run manage.py own_store."
        )
    return lines
