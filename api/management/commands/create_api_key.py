"""`manage.py create_api_key TENANT --role R [--role R] [--name NAME] [--expires TIME]`"""

from argparse import ArgumentTypeError
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from django.core.management.base import CommandParser

from api.keys import create_api_key
from api.models import Role
from catalog.management.base import Outcome, ServiceCommand


def _instant(text: str) -> datetime:
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise ArgumentTypeError("needs a time such as 2030-01-31 or 2030-01-31T12:00:00Z") from None
    return instant.replace(tzinfo=instant.tzinfo or UTC)


class Command(ServiceCommand):
    """Make a key."""

    help = "Create an API key of a tenant. The key is shown once and cannot be shown again."

    def declare(self, parser: CommandParser) -> None:
        parser.add_argument("tenant_id", metavar="TENANT")
        parser.add_argument(
            "--role",
            action="append",
            required=True,
            choices=Role.values,
            dest="roles",
            help="May be given several times.",
        )
        parser.add_argument("--name", default="", help="What the key is for.")
        parser.add_argument(
            "--expires", type=_instant, default=None, metavar="TIME", help="When it stops working; UTC."
        )

    def perform(self, options: Mapping[str, Any]) -> Outcome:
        created = create_api_key(
            tenant_id=options["tenant_id"],
            name=options["name"],
            roles=options["roles"],
            expires_at=options["expires"],
            actor="manage.py",
        )
        lines = [
            f"Key {created.key_id} of tenant {created.tenant_id}, roles {', '.join(created.roles)}:",
            created.api_key,
            "Keep it now: it cannot be shown again.",
        ]
        return Outcome(document=asdict(created), lines=lines)
