"""`manage.py compact [--tenant T] [--table N] [--full] [--dry-run]`"""

from collections.abc import Mapping
from typing import Any

from django.core.management.base import CommandParser

from duckmesh.kernel.errors import JSON
from maintenance.history import RunInfo
from maintenance.job import Kind
from maintenance.management.base import RunCommand


class Command(RunCommand):
    """Compact tables."""

    help = "Rewrite small files into fewer, and fold the operations on keys. What a query sees stays as it is."
    kind = Kind.COMPACTION

    def declare_options(self, parser: CommandParser) -> None:
        """`--full`."""
        parser.add_argument("--full", action="store_true", help="Rewrite whatever can be fewer, worth it or not.")

    def given(self, options: Mapping[str, Any]) -> dict[str, JSON]:
        """`full`."""
        return {"full": options["full"]}

    def lines(self, run: RunInfo) -> list[str]:
        """A line for each table with work, or in a dry run for each group of files."""
        summary: Any = run.summary  # it is JSON
        if summary.get("dry_run"):
            found = [_group(group) for group in summary["groups"]]
        else:
            found = [_table(table) for table in summary.get("tables", [])]
        return found or ["Nothing to do."]


def _group(group: Mapping[str, Any]) -> str:
    name = f"{group['tenant_id']} {group['table_name']}"
    partition = "".join(f" {field}={value}" for field, value in group["partition"].items())
    return f"{name}{partition}: would {group['kind']} {group['files']} files of {group['bytes']:,} bytes."


def _table(table: Mapping[str, Any]) -> str:
    name, before, after = f"{table['tenant_id']} {table['table_name']}", table["before"], table["after"]
    became = f"{table['input_files']} files became {table['output_files']} in {table['slices']} slices"
    missed = "".join(f", {table[what]} {what}" for what in ("overtaken", "skipped") if table[what])
    return f"{name}: {became}{missed}; {before['files']} files before, {after['files']} after."
