"""`manage.py mode [read-only|normal] [--reason TEXT]`"""

from collections.abc import Mapping
from typing import Any

from django.core.management.base import CommandParser

from catalog.management.base import Outcome, ServiceCommand
from catalog.mode import ModeInfo, service_mode, set_mode
from catalog.models import ServiceMode
from duckmesh.kernel.errors import Invalid


class Command(ServiceCommand):
    """Stop writes, take them again, or show the mode."""

    help = (
        "Put the service into read-only mode, or back into the normal one; without an argument only show the mode. In"
        " read-only mode writes, changes of tables and deletions are refused within a second, while queries go on and"
        " what was accepted still becomes visible."
    )

    def declare(self, parser: CommandParser) -> None:
        parser.add_argument("mode", nargs="?", choices=ServiceMode.Mode.values, help="The mode from now on.")
        parser.add_argument("--reason", default="", metavar="TEXT", help="Why; it stays on record.")

    def perform(self, options: Mapping[str, Any]) -> Outcome:
        if options["mode"] is None:
            if options["reason"]:
                raise Invalid("--reason needs a mode.")
            return _told(service_mode())
        if len(options["reason"]) > 200:
            raise Invalid("A reason has at most 200 characters.")
        mode = ServiceMode.Mode(options["mode"])
        return _told(set_mode(mode=mode, reason=options["reason"], actor="operator"))


def _told(found: ModeInfo) -> Outcome:
    document = {
        "mode": found.mode.value,
        "reason": found.reason,
        "changed_by": found.changed_by,
        "since": found.since.isoformat() if found.since else None,
    }
    lines = [f"mode: {found.mode.value}"]
    if found.since is not None:
        because = f" ({found.reason})" if found.reason else ""
        lines.append(f"since {found.since:%Y-%m-%d %H:%M:%S} UTC, by {found.changed_by}{because}")
    return Outcome(document=document, lines=lines)
