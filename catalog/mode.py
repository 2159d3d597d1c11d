"""Read-only mode: an operator stops everything that changes or deletes what tenants have written.

The mode is a row that whoever is about to write looks at. Each process remembers it for less than a second, so that
requests cost no statement more; a second after a change every process acts by it. What is on its way to its commit at
that moment ends. Publishing what was accepted is no new write and goes on.
"""

import threading
from dataclasses import dataclass
from datetime import datetime
from time import monotonic

import structlog
from django.db import InterfaceError, OperationalError, transaction
from django.db.models.functions import Now

from catalog.errors import ReadOnly
from catalog.incidents import record_incident
from catalog.models import IncidentAudit, ServiceMode
from duckmesh.kernel.errors import Unavailable

REMEMBERED_FOR = 0.8
_RETRY_AFTER = 10

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class ModeInfo:
    """The mode, who chose it, why and since when; nobody and None if nobody ever has."""

    mode: ServiceMode.Mode
    reason: str = ""
    changed_by: str = ""
    since: datetime | None = None

    @property
    def read_only(self) -> bool:
        """Whether writes are refused."""
        return self.mode == ServiceMode.Mode.READ_ONLY


@dataclass(frozen=True, kw_only=True)
class _Remembered:
    mode: ModeInfo
    read_at: float


_reading = threading.Lock()
_remembered: _Remembered | None = None


def service_mode() -> ModeInfo:
    """The mode as it stands in the catalog now."""
    row = ServiceMode.objects.first()
    if row is None:
        return ModeInfo(mode=ServiceMode.Mode.NORMAL)
    return ModeInfo(mode=ServiceMode.Mode(row.mode), reason=row.reason, changed_by=row.changed_by, since=row.since)


def set_mode(*, mode: ServiceMode.Mode, reason: str, actor: str) -> ModeInfo:
    """The service is in this mode, in every process within a second, and it is on record who chose it and why.

    Nothing changes if it is in this mode already.
    """
    with transaction.atomic():
        normal = {"mode": ServiceMode.Mode.NORMAL, "changed_by": actor}
        row, _ = ServiceMode.objects.select_for_update().get_or_create(only=True, defaults=normal)
        if row.mode == mode:
            return service_mode()
        ServiceMode.objects.update(mode=mode, reason=reason, changed_by=actor, since=Now())
        record_incident(
            tenant_id=None,
            kind="service_mode_changed",
            severity=IncidentAudit.Severity.WARNING,
            message=f"The service is in the mode {mode.value}.",
            context={"mode": mode.value, "reason": reason, "actor": actor},
        )
    forget_mode()
    log.warning("service_mode_changed", mode=mode.value, reason=reason, actor=actor)
    return service_mode()


def is_read_only() -> bool:
    """Whether writes are refused, as it was less than a second ago."""
    return _mode_of_late().read_only


def require_writable() -> None:
    """Raises `ReadOnly` while writes are refused, and `Unavailable` if nobody can tell."""
    found = _mode_of_late()
    if found.read_only:
        since = found.since.isoformat() if found.since else None
        raise ReadOnly(
            "The service is in read-only mode: nothing was written, queries go on.",
            retry_after=_RETRY_AFTER,
            read_only_since=since,
        )


def forget_mode() -> None:
    """The next who asks reads the catalog."""
    global _remembered
    _remembered = None


def _mode_of_late() -> ModeInfo:
    global _remembered
    found = _remembered
    if found is None or monotonic() - found.read_at > REMEMBERED_FOR:
        with _reading:  # one thread reads, the others wait for what it finds
            found = _remembered
            if found is None or monotonic() - found.read_at > REMEMBERED_FOR:
                read_at = monotonic()
                try:
                    found = _remembered = _Remembered(mode=service_mode(), read_at=read_at)
                except (OperationalError, InterfaceError) as exc:
                    raise Unavailable("The catalog does not answer; nothing was written.") from exc
    return found.mode
