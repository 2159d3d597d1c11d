"""The ids of snapshots as requests name them.

A member or parameter that can never be an id is a wrong request; an address with such a thing in it leads nowhere.
"""

from catalog.errors import SnapshotNotFound
from duckmesh.kernel.errors import Invalid

LARGEST = 2**63 - 1


def id_in_body(value: object) -> int:
    """The member `snapshot_id` of a body. Raises `Invalid`."""
    if type(value) is not int or not 0 <= value <= LARGEST:
        raise Invalid(f"snapshot_id must be the number of a snapshot, an integer from 0 to {LARGEST}.")
    return value


def id_in_address(text: str) -> int:
    """The id that is part of an address. Raises `SnapshotNotFound`."""
    if (number := _number(text)) is None:
        raise SnapshotNotFound("There is no such snapshot.")
    return number


def id_in_parameter(name: str, text: str) -> int:
    """The id in the parameter `name` of the query string. Raises `Invalid`."""
    if (number := _number(text)) is None:
        raise Invalid(f"{name} must be the number of a snapshot, an integer from 0 to {LARGEST}.")
    return number


def _number(text: str) -> int | None:
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        return None
    return number if (number := int(text)) <= LARGEST else None
