"""Pages of a listing: `limit`, an opaque `cursor`, and `next_cursor` while there is more."""

import base64
import binascii
from collections.abc import Mapping

from drf_spectacular.utils import OpenApiParameter

from duckmesh.kernel.errors import Invalid

DEFAULT = 100
LARGEST = 1_000

PARAMETERS = [
    OpenApiParameter("limit", {"type": "integer", "minimum": 1, "maximum": LARGEST, "default": DEFAULT}),
    OpenApiParameter("cursor", str, description="`next_cursor` of the page before."),
]


def limit_of(query: Mapping[str, str]) -> int:
    """How many items the page may hold."""
    text = query.get("limit", str(DEFAULT))
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and 1 <= int(text) <= LARGEST):
        raise Invalid(f"limit must be a number from 1 to {LARGEST}.", limit=text[:100])
    return int(text)


def position_of(query: Mapping[str, str]) -> str:
    """Behind which item the page begins; empty for the first page."""
    cursor = query.get("cursor", "")
    try:
        return base64.b64decode(cursor.encode("ascii"), altchars=b"-_", validate=True).decode("utf-8")
    except (UnicodeError, binascii.Error):
        raise Invalid("cursor must be the next_cursor of an earlier page.") from None


def cursor_behind(position: str) -> str:
    """The cursor of the page that begins behind `position`."""
    return base64.urlsafe_b64encode(position.encode("utf-8")).decode("ascii")
