"""API keys: made, revoked and recognised.

The text of a key is `dm_<key_id>_<secret>`. It is seen once, when the key is made.
"""

import secrets
import string
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import structlog
from django.db.models import F
from django.db.models.functions import Now
from django.utils.crypto import constant_time_compare, salted_hmac

from api.errors import ApiKeyNotFound, TenantSuspended
from api.models import ApiKey, Role
from catalog.errors import TenantNotFound
from catalog.models import Tenant
from duckmesh.kernel import clock
from duckmesh.kernel.acting import acting_for_all
from duckmesh.kernel.errors import Invalid

log = structlog.get_logger(__name__)

# A revoked key, or one of a suspended tenant, opens nothing after this long in any process. The promise is a second.
CACHE_FOR = timedelta(milliseconds=500)
CACHED_KEYS = 10_000

_ALPHABET = string.ascii_lowercase + string.digits
_ID_LENGTH = 12
_SECRET_LENGTH = 40  # of 36 letters: 206 bits
_LONGEST_KEY = 100


@dataclass(frozen=True, kw_only=True)
class CreatedKey:
    """A key that was just made. Nothing can show `api_key` again."""

    key_id: str
    tenant_id: str
    api_key: str = field(repr=False)
    roles: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Principal:
    """Who asks: the tenant of the key and what the key may do. Nothing else in a request names a tenant."""

    tenant_id: str
    key_id: str
    roles: frozenset[str]

    @property
    def is_authenticated(self) -> bool:
        """True: there is no principal for a key that was not recognised."""
        return True


@dataclass(frozen=True, kw_only=True)
class _Known:
    principal: Principal
    key_hash: str
    expires_at: datetime | None
    revoked: bool
    suspended: bool
    read_at: datetime


_known: dict[str, _Known] = {}


def create_api_key(
    *, tenant_id: str, name: str, roles: Iterable[str], expires_at: datetime | None = None, actor: str
) -> CreatedKey:
    """The tenant has one more key with these roles. Raises `Invalid` or `TenantNotFound`."""
    given = set(roles)
    unknown = sorted(given - set(Role.values))
    if unknown or not given:
        problem = f"There is no role {', '.join(unknown)}" if unknown else "A key needs at least one role"
        raise Invalid(f"{problem}; the roles are {', '.join(Role.values)}.", roles=[*sorted(given)])
    if len(name) > 200:
        raise Invalid("A key's name has at most 200 characters.")
    if expires_at is not None and expires_at <= clock.now():
        raise Invalid("A key must expire in the future.", expires_at=clock.rfc3339(expires_at))
    if not Tenant.objects.filter(tenant_id=tenant_id).exists():
        raise TenantNotFound(f"There is no tenant {tenant_id}.", tenant_id=tenant_id)
    key_id, secret = _random(_ID_LENGTH), _random(_SECRET_LENGTH)
    ordered = tuple(role for role in Role.values if role in given)
    ApiKey.objects.create(
        key_id=key_id,
        tenant_id=tenant_id,
        name=name,
        prefix=f"dm_{key_id}",
        key_hash=_hash(secret),
        roles=list(ordered),
        expires_at=expires_at,
        created_by=actor,
    )
    log.info("api_key_created", tenant_id=tenant_id, key_id=key_id, roles=ordered, actor=actor)
    return CreatedKey(key_id=key_id, tenant_id=tenant_id, api_key=f"dm_{key_id}_{secret}", roles=ordered)


def revoke_api_key(*, key_id: str) -> None:
    """The key opens nothing any more, within a second and for ever. Revoking it again changes nothing."""
    live = ApiKey.objects.filter(key_id=key_id, revoked_at=None)
    if not live.update(revoked_at=Now()) and not ApiKey.objects.filter(key_id=key_id).exists():
        raise ApiKeyNotFound(f"There is no API key {key_id}.", key_id=key_id)
    log.info("api_key_revoked", key_id=key_id)
    _known.pop(key_id, None)


def authenticate(key: str, now: datetime) -> Principal | None:
    """Whom `key` speaks for, or None if it opens nothing (which is an answer here, not a failure).

    Raises `TenantSuspended` if it would open, were its tenant not suspended.
    """
    known = _recognise(key, now)
    if known is not None and known.suspended:
        raise TenantSuspended(
            "The key's tenant is suspended: an operator has stopped its requests. What it has written is kept.",
            tenant_id=known.principal.tenant_id,
        )
    return known.principal if known is not None else None


def owner_of(key: str, now: datetime) -> str | None:
    """The tenant that `key` belongs to, suspended or not; None if it is unknown, revoked or expired."""
    known = _recognise(key, now)
    return known.principal.tenant_id if known is not None else None


def _recognise(key: str, now: datetime) -> _Known | None:
    kind, _, rest = key[:_LONGEST_KEY].partition("_")
    key_id, _, secret = rest.partition("_")
    if kind != "dm" or len(key_id) != _ID_LENGTH or not key_id.isalnum() or not key_id.isascii():
        return None
    known = _look_up(key_id, now)
    # An unknown id costs the same comparison as a wrong secret.
    matches = constant_time_compare(_hash(secret), known.key_hash if known else "0" * 64)
    if known is None or not matches or known.revoked:
        return None
    if known.expires_at is not None and known.expires_at <= now:
        return None
    return known


def _look_up(key_id: str, now: datetime) -> _Known | None:
    known = _known.get(key_id)
    # A clock that was set back must not keep an entry alive: its age would be negative.
    if known is not None and timedelta(0) <= now - known.read_at < CACHE_FOR:
        return known
    with acting_for_all():  # whose key it is, is what is asked
        row = (
            ApiKey.objects.filter(key_id=key_id)
            .annotate(tenant_state=F("tenant__state"))
            .values_list("tenant_id", "key_hash", "roles", "expires_at", "revoked_at", "tenant_state")
            .first()
        )
    if row is None:
        _known.pop(key_id, None)
        return None
    tenant_id, key_hash, roles, expires_at, revoked_at, tenant_state = row
    known = _Known(
        principal=Principal(tenant_id=tenant_id, key_id=key_id, roles=frozenset(roles)),
        key_hash=key_hash,
        expires_at=expires_at,
        revoked=revoked_at is not None,
        suspended=tenant_state != Tenant.State.ACTIVE,
        read_at=now,
    )
    if len(_known) >= CACHED_KEYS:
        _known.clear()
    _known[key_id] = known
    return known


def _hash(secret: str) -> str:
    """HMAC-SHA256 under a key derived from SECRET_KEY: a stolen table of hashes opens nothing."""
    return salted_hmac("duckmesh.api_key", secret, algorithm="sha256").hexdigest()


def _random(length: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))
