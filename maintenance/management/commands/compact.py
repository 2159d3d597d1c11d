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
        """A line for each table."""
        tables: Any = run.summary.get("tables", [])  # the summary is JSON
        return [_line(table) for table in tables]


def _line(document: Mapping[str, Any]) -> str:
    name = f"{document['tenant_id']} {document['table_name']}"
    if not document["slices"]:
        return f"{name}: nothing to do."
    if "overtaken" not in document:
        files = sum(len(item["inputs"]) for item in document["slices"])
        return f"{name}: {files} files would be rewritten in {len(document['slices'])} slices."
    before = sum(done["input_files"] for done in document["slices"])
    after = sum(done["output_files"] for done in document["slices"])
    return f"{name}: {before} files became {after}."
