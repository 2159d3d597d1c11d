"""`manage.py integrity [--tenant T] [--table N] [--mode quick|deep] [--from-snapshot S] [--to-snapshot S]`"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from django.core.management.base import CommandParser

from catalog.management.base import Outcome
from duckmesh.kernel.errors import JSON
from maintenance.history import RunInfo, gravest_findings
from maintenance.job import Kind
from maintenance.management.base import RunCommand

_MOST_LINES = 50
_COUNTED = (
    "tenants_scanned",
    "snapshots_scanned",
    "unique_files_checked",
    "files_read",
    "missing_files",
    "size_mismatch_files",
    "checksum_mismatch_files",
    "orphan_files",
    "operational_failures",
    "errors",
    "warnings",
)


class Command(RunCommand):
    """Hold the catalog against the object store, and against itself."""

    help = "Hold the catalog against the object store and itself. Changes nothing; status 1 if it found anything."
    kind = Kind.INTEGRITY

    def declare_options(self, parser: CommandParser) -> None:
        """The mode, and the range of snapshots."""
        parser.add_argument(
            "--mode",
            choices=["quick", "deep"],
            default="quick",
            help="quick: by listing, what is there and how large; deep: also read every byte. Default: quick.",
        )
        parser.add_argument("--from-snapshot", type=int, metavar="S", help="Only snapshots from this one on.")
        parser.add_argument("--to-snapshot", type=int, metavar="S", help="Only snapshots up to this one.")

    def given(self, options: Mapping[str, Any]) -> dict[str, JSON]:
        """Mode and range."""
        return {name: options[name] for name in ("mode", "from_snapshot", "to_snapshot")}

    def perform(self, options: Mapping[str, Any]) -> Outcome:
        """The run; a warning is something that was found too."""
        outcome = super().perform(options)
        document: Any = outcome.document  # the run as JSON
        warnings = document["summary"].get("warnings", 0)
        if outcome.problem is None and warnings:
            return replace(outcome, problem=f"{warnings} findings, none of them an error.")
        return outcome

    def lines(self, run: RunInfo) -> list[str]:
        """The figures, then the findings with what each takes away."""
        if run.options.get("dry_run"):
            return [f"{name}: {value}" for name, value in run.summary.items() if name != "dry_run"]
        figures = [f"{name.replace('_', ' ')}: {run.summary[name]}" for name in _COUNTED if name in run.summary]
        found = gravest_findings(run_id=run.run_id, limit=_MOST_LINES)
        told = [_line(row.severity, row.kind, row.object_key, row.detail, row.runbook) for row in found]
        return [*figures, *told]


def _line(severity: str, kind: str, key: str, detail: Mapping[str, Any], runbook: str) -> str:
    lost = f", {detail['rows_lost']} rows lost" if detail.get("rows_lost") else ""
    snapshots = detail.get("snapshots")
    where = ""
    if isinstance(snapshots, dict) and snapshots.get("count"):
        where = f" in {snapshots['count']} snapshots, {snapshots['first']} to {snapshots['last']}"
    table = f" of {detail['table_name']}" if detail.get("table_name") else ""
    return f"{severity}: {kind}{table}{lost}{where} {key} (runbooks/{runbook})".replace("  ", " ")
