"""`manage.py doctor [--json]`"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from django.conf import settings
from django.core.management.base import CommandParser

from api.doctor.findings import Finding, State, worst
from api.doctor.setup import doctor
from api.process import guard_policy, object_store
from catalog.management.base import Outcome, ServiceCommand

_SIGNS = {State.OK: "ok     ", State.WARNING: "warning", State.FAILED: "FAILED "}


class Command(ServiceCommand):
    """Check everything that acknowledgements and answers rest on."""

    help = (
        "Check clocks, PostgreSQL and what would be lost with it, Redis, the object store, the kernel, migrations, the"
        " catalog, backups and room. Status 1 if a check fails; each that does names its page in runbooks/."
    )

    def declare(self, parser: CommandParser) -> None:
        """It has no arguments of its own."""

    def perform(self, options: Mapping[str, Any]) -> Outcome:  # noqa: ARG002 - every command's signature
        found = doctor(settings.DUCKMESH, objects=object_store(), guard=guard_policy()).examine()
        failed = [each.check for each in found if each.state == State.FAILED]
        return Outcome(
            document={"status": worst(found), "checks": [asdict(each) for each in found]},
            lines=[line for each in found for line in _lines(each)],
            problem=f"{len(failed)} checks failed: {', '.join(failed)}." if failed else None,
        )


def _lines(found: Finding) -> list[str]:
    lines = [f"{_SIGNS[found.state]}  {found.check:<24}{found.message}"]
    return [*lines, f"{'':33}See {found.runbook}."] if found.runbook else lines
