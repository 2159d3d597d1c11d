"""For which tenant the present work is done: the rows that the database lets it see (docs/security.md).

Nobody's, unless somebody has said whose. A request acts for its key's tenant; what is the whole service's business says
that it acts for all of them, and so does a program that has no other business (`act_for_all_by_default`).
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

NOBODY = ""
EVERYBODY = "*"

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_acting: ContextVar[str] = ContextVar("acting")
_otherwise = NOBODY


def acting() -> str:
    """The tenant; or `NOBODY`, or `EVERYBODY`."""
    return _acting.get(_otherwise)


def default() -> str:
    """For whom this process acts where nobody says otherwise."""
    return _otherwise


def act_for(tenant_id: str) -> None:
    """From here on what this request does is done for its tenant."""
    if not _NAME.fullmatch(tenant_id):
        raise ValueError("a tenant's name is no such text")
    _acting.set(tenant_id)


def act_for_all() -> None:
    """From here on what this request does is done for all tenants: an operator asks."""
    _acting.set(EVERYBODY)


def act_for_all_by_default() -> None:
    """What this process does is done for all tenants, where nobody says otherwise. For once, at its start."""
    global _otherwise
    _otherwise = EVERYBODY


@contextmanager
def acting_for_nobody() -> Iterator[None]:
    """No rows of any tenant are seen in this block, until `act_for` names one; afterwards all is as before."""
    token = _acting.set(NOBODY)
    try:
        yield
    finally:
        _acting.reset(token)


@contextmanager
def acting_for_all() -> Iterator[None]:
    """What this block does is done for all tenants."""
    token = _acting.set(EVERYBODY)
    try:
        yield
    finally:
        _acting.reset(token)
