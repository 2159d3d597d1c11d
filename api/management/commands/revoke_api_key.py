"""`manage.py revoke_api_key KEY_ID`"""

from collections.abc import Mapping
from typing import Any

from django.core.management.base import CommandParser

from api.keys import revoke_api_key
from catalog.management.base import Outcome, ServiceCommand


class Command(ServiceCommand):
    """Revoke a key."""

    help = "Revoke an API key: within a second it opens nothing."

    def declare(self, parser: CommandParser) -> None:
        parser.add_argument("key_id", metavar="KEY_ID")

    def perform(self, options: Mapping[str, Any]) -> Outcome:
        revoke_api_key(key_id=options["key_id"])
        return Outcome(
            document={"key_id": options["key_id"], "revoked": True}, lines=[f"Key {options['key_id']} is revoked."]
        )
