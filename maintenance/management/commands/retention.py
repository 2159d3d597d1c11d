"""`manage.py retention [--tenant T] [--table N] [--dry-run] [--keep-last N] …`"""

from collections.abc import Mapping
from typing import Any

from django.core.management.base import CommandParser

from duckmesh.kernel.errors import JSON
from maintenance.history import RunInfo
from maintenance.job import Kind
from maintenance.management.base import RunCommand

_OWN = ("keep_last", "keep_all_for", "ladder", "safety_age")


class Command(RunCommand):
    """Expire snapshots and delete what nothing names."""

    help = (
        "Expire the snapshots that the policy keeps no longer, and delete files that no snapshot has named for the"
        " safety age, objects that no row names, and dropped tables. Runs by itself too. With --dry-run it lists each"
        " snapshot and object with what would become of it, and why. With --table only that table's files are deleted."
    )
    kind = Kind.RETENTION

    def declare_options(self, parser: CommandParser) -> None:
        """What is not given is as the configuration says."""
        sweep = parser.add_mutually_exclusive_group()
        sweep.add_argument("--orphans", action="store_true", default=None, help="Look for orphans now, due or not.")
        sweep.add_argument("--no-orphans", dest="orphans", action="store_false", help="Do not look for orphans.")
        parser.add_argument("--keep-last", type=int, metavar="N", help="Keep the newest N snapshots, however old.")
        parser.add_argument("--keep-all-for", metavar="SPAN", help="Keep every snapshot for so long, such as 1h.")
        parser.add_argument("--ladder", metavar="STEPS", help="Older ones to keep, such as 1m:1d,1d:30d.")
        parser.add_argument("--safety-age", metavar="SPAN", help="Delete files unnamed for so long, such as 30m.")

    def given(self, options: Mapping[str, Any]) -> dict[str, JSON]:
        """The job's own options."""
        return {"orphans": options["orphans"], **{name: options[name] for name in _OWN}}

    def lines(self, run: RunInfo) -> list[str]:
        """What was done, or would be, object by object."""
        summary: Mapping[str, Any] = run.summary  # the summary is JSON
        if not summary:
            return []
        would = "would be " if summary.get("dry_run") else ""
        total = (
            f"{summary['snapshots_expired']} snapshots {would}expired, {summary['files_deleted']} files"
            f" ({summary['bytes_deleted']} bytes) {would}deleted, {summary['orphans_deleted']} orphans {would}deleted,"
            f" {summary['tables_removed']} dropped tables {would}removed."
        )
        if summary.get("objects_undeleted"):
            total += f" {summary['objects_undeleted']} objects the store did not delete; the next run tries again."
        return [*map(_snapshots, summary.get("snapshots", ())), *map(_object, summary.get("objects", ())), total]


def _snapshots(group: Mapping[str, Any]) -> str:
    ids = f"snapshot {group['from']}" if group["snapshots"] == 1 else f"snapshots {group['from']} to {group['to']}"
    count = "" if group["snapshots"] == 1 else f" ({group['snapshots']})"
    return f"{group['tenant_id']} {ids}{count}: {'expires' if group['expires'] else 'stays'}, {group['reason']}"


def _object(item: Mapping[str, Any]) -> str:
    return f"{item['key']} ({item['bytes']} bytes): {'deleted' if item['deleted'] else 'stays'}, {item['reason']}"
