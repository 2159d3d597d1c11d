"""`manage.py limits TENANT [--records-per-second N|default|none] …`"""

import argparse
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from django.conf import settings
from django.core.management.base import CommandParser
from pydantic import TypeAdapter, ValidationError

from catalog.limits import MEANINGS, Limits, effective_limits, own_limits, set_limits, usage
from catalog.management.base import Outcome, ServiceCommand
from catalog.models.tenant import LIMITS
from duckmesh.kernel.config import Size

_SIZES: TypeAdapter[int] = TypeAdapter(Size)


class Command(ServiceCommand):
    """Set a tenant's limits, and show them with what the tenant uses."""

    help = "Set limits of a tenant; without options, only show them, with what the tenant uses."

    def declare(self, parser: CommandParser) -> None:
        parser.add_argument("tenant_id", metavar="TENANT")
        for limit in LIMITS:
            parser.add_argument(
                _option(limit),
                dest=limit,
                metavar="N",
                type=_size if "bytes" in limit else _count,
                default=argparse.SUPPRESS,
                help=f"{MEANINGS[limit]} A number{' or a size such as 10GiB' if 'bytes' in limit else ''}, `none`,"
                " or `default` for what the configuration says.",
            )

    def perform(self, options: Mapping[str, Any]) -> Outcome:
        tenant_id = options["tenant_id"]
        changes = {limit: options[limit] for limit in LIMITS if limit in options}
        if changes:
            set_limits(tenant_id=tenant_id, changes=changes, actor="operator")
        own = own_limits(tenant_id=tenant_id)
        limits = asdict(effective_limits(tenant_id=tenant_id, defaults=Limits.of(settings.DUCKMESH)))
        used = asdict(usage(tenant_id=tenant_id))
        document = {"tenant_id": tenant_id, "limits": limits, "own": own, "usage": used}
        lines = [
            f"{limit:<24}{limits[limit] or 'none':>20}{'  (default)' if own[limit] is None else ''}" for limit in LIMITS
        ]
        lines += [f"{name:<24}{value:>20}" for name, value in used.items()]
        return Outcome(document=document, lines=lines)


def _option(limit: str) -> str:
    return "--" + limit.removeprefix("max_").replace("_", "-")


def _count(text: str) -> int | None:
    if text == "default":
        return None
    return 0 if text == "none" else int(text)


def _size(text: str) -> int | None:
    if text in ("default", "none", "0"):
        return _count(text)
    try:
        return _SIZES.validate_python(text)
    except ValidationError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of bytes such as 1048576, 64MiB or 2GiB") from None
