"""`manage.py restore_drill [--tenant T] [--table N] [--dry-run] [--checksums] [--keep]`"""

from collections.abc import Mapping
from typing import Any

from django.core.management.base import CommandParser

from duckmesh.kernel.errors import JSON
from maintenance.history import RunInfo
from maintenance.job import Kind
from maintenance.management.base import RunCommand
from maintenance.management.steps import tell


class Command(RunCommand):
    """Restore a dump into a scratch database, and prove it."""

    help = (
        "Dump the catalog, restore it into a scratch database, compare the two, read tables back from the object store"
        " through the restored one, and remove it. Status 1 if something differs. With --dry-run the steps are listed."
    )
    kind = Kind.RESTORE_DRILL
    owners = True

    def declare_options(self, parser: CommandParser) -> None:
        """The drill's own."""
        parser.add_argument("--checksums", action="store_true", help="Compare contents too, not only numbers of rows.")
        parser.add_argument("--keep", action="store_true", help="Leave the restored database there, to look at.")

    def given(self, options: Mapping[str, Any]) -> dict[str, JSON]:
        """The job's own options."""
        return {"checksums": options["checksums"], "keep": options["keep"]}

    def told(self, name: str, facts: Mapping[str, JSON]) -> None:
        """Steps are shown as they come."""
        tell(name, **facts)

    def lines(self, run: RunInfo) -> list[str]:
        """What was found, and how long it took."""
        summary: Mapping[str, Any] = run.summary  # the summary is JSON
        if summary.get("dry_run"):
            return [f"would do: {', '.join(summary['steps'])}"]
        lines = [" ".join(f"{key}={value}" for key, value in each.items()) for each in summary.get("findings", ())]
        if "rto_seconds" in summary:
            lines.append(
                f"{len(summary['tables'])} tables restored and {len(summary['tables_read'])} read back; what is written"
                f" in {summary['rpo_seconds']:.1f} s would be lost (RPO), and a catalog be there in"
                f" {summary['rto_seconds']:.1f} s (RTO)."
            )
        if summary.get("kept_database"):
            lines.append(f"The restored catalog is in the database {summary['kept_database']}; drop it yourself.")
        return lines
