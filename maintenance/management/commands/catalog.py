"""`manage.py catalog show|adopt (--i-lost-commits [--take-over] | --no-loss)`"""

from collections.abc import Mapping
from typing import Any

from django.conf import settings
from django.core.management.base import CommandParser

from catalog.identity import identity, take_over
from catalog.management.base import Outcome, ServiceCommand
from catalog.server import Standing, server_here, server_on_record, standing
from duckmesh.kernel.errors import Invalid
from maintenance.restore.adopting import Adopted, adopt_after_loss, adopt_without_loss
from storage.factory import StoreSettings, open_store

_STANDINGS = {
    Standing.KNOWN: "PostgreSQL is the server that the catalog lives on.",
    Standing.CHANGED: "PostgreSQL is another server, or another history, than the catalog was last known on:"
    " writes are refused.",
    Standing.STANDBY: "PostgreSQL is a standby: it takes no writes.",
}
_CHOOSE = (
    "Say what became of the old PostgreSQL. --no-loss: it was shut down cleanly, and this one had received all of its"
    " WAL, or commits waited for it as a synchronous standby. --i-lost-commits: anything else, and whenever you are"
    " not sure. The catalog then begins a new incarnation: clients whose writes may be lost are told so by 409"
    " TOKEN_SCOPE_MISMATCH, and send them again under the same keys."
)


class Command(ServiceCommand):
    """Show on which PostgreSQL the catalog lives, or say that it lives on this one now."""

    owners = True
    help = (
        "show: on which PostgreSQL the catalog lives, and which one answers. adopt: it lives on the one that answers,"
        " after a failover or a recovery to a point in time. The old one must never take a write again: stop it, or"
        f" fence it off, first. {_CHOOSE}"
    )

    def declare(self, parser: CommandParser) -> None:
        parser.add_argument("action", choices=["show", "adopt"])
        loss = parser.add_mutually_exclusive_group()
        loss.add_argument(
            "--i-lost-commits", action="store_true", help="Acknowledged writes may be lost: begin a new incarnation."
        )
        loss.add_argument("--no-loss", action="store_true", help="Every acknowledged write is here: only go on.")
        parser.add_argument(
            "--take-over", action="store_true", help="With --i-lost-commits: own the object store at once."
        )

    def perform(self, options: Mapping[str, Any]) -> Outcome:
        if options["action"] == "show":
            return _shown()
        if options["no_loss"] and not options["take_over"]:
            adopted = adopt_without_loss()
        elif options["i_lost_commits"]:
            adopted = adopt_after_loss()
        else:
            raise Invalid(_CHOOSE)
        if options["take_over"]:
            take_over(open_store(StoreSettings.of(settings.DUCKMESH)))
        return _adopted(adopted, took_over=options["take_over"])


def _shown() -> Outcome:
    found, here, recorded = standing(), server_here(), server_on_record()
    document = {
        "standing": found.value,
        "incarnation": identity().incarnation if found != Standing.STANDBY else None,
        "system_identifier": str(here.system_identifier),
        "timeline": here.timeline,
        "recorded_system_identifier": None if recorded is None else str(recorded.server.system_identifier),
        "recorded_timeline": None if recorded is None else recorded.server.timeline,
        "recorded_at": None if recorded is None else recorded.since,
    }
    problem = None if found == Standing.KNOWN else _STANDINGS[found]
    lines = [f"{name:<28}{value}" for name, value in document.items()]
    return Outcome(document=document, lines=[_STANDINGS[found], *lines], problem=problem)


def _adopted(adopted: Adopted, *, took_over: bool) -> Outcome:
    document = {
        "changed": adopted.changed,
        "incarnation": adopted.incarnation,
        "system_identifier": str(adopted.server.system_identifier),
        "timeline": adopted.server.timeline,
        "known_until": adopted.known_until,
        "store_taken_over": took_over,
    }
    if adopted.known_until is None:
        said = "Writes are taken again." if adopted.changed else "It was on record already; nothing has changed."
        return Outcome(document=document, lines=["The catalog lives on this PostgreSQL.", said])
    lines = [
        f"The catalog lives on this PostgreSQL, in incarnation {adopted.incarnation}. Writes are taken again.",
        f"All that was published until {adopted.known_until:%Y-%m-%d %H:%M:%S} UTC is here.",
        "Barriers on what was acknowledged later and is lost answer 409 TOKEN_SCOPE_MISMATCH.",
        "Next: look at manage.py lag, and run manage.py integrity.",
    ]
    if not took_over:
        lines.append(
            "Nothing is deleted in the object store until this catalog owns it: when the old PostgreSQL is gone for"
            " good, run manage.py own_store."
        )
    return Outcome(document=document, lines=lines)
