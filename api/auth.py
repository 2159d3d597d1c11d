"""Who may do what over HTTP, and no more than that.

A view that declares no roles for a method, and is not open, is refused.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import structlog
from django.http import HttpRequest
from rest_framework.authentication import BaseAuthentication
from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from api.errors import Unauthenticated
from api.keys import Principal, authenticate
from api.models import Role
from duckmesh.kernel import clock
from duckmesh.kernel.acting import act_for
from duckmesh.kernel.errors import Denied

if TYPE_CHECKING:  # REST framework's views import this module
    from rest_framework.views import APIView

Roles = Mapping[str, frozenset[Role]]


class ApiKeyAuthentication(BaseAuthentication):
    """`Authorization: Bearer KEY`, or `X-API-Key: KEY`."""

    def authenticate(self, request: Request) -> tuple[Principal, None] | None:
        """The key's principal; None if no key came; `Unauthenticated` if one came that opens nothing.

        `TenantSuspended` if only its tenant's suspension keeps it from opening.
        """
        key = sent_key(request)
        if key is None:
            return None
        principal = authenticate(key, clock.now())
        if principal is None:
            raise Unauthenticated("The API key opens nothing: it is unknown, revoked or expired.")
        act_for(principal.tenant_id)
        structlog.contextvars.bind_contextvars(tenant_id=principal.tenant_id)
        return principal, None


def sent_key(request: HttpRequest) -> str | None:
    """The key that the request carries, or None."""
    scheme, _, credentials = request.META.get("HTTP_AUTHORIZATION", "").partition(" ")
    if scheme:
        if scheme.lower() != "bearer":
            raise Unauthenticated("Authorization must be of the form: Bearer KEY.")
        return str(credentials).strip()
    key: str | None = request.META.get("HTTP_X_API_KEY")
    return key


class HasRole(BasePermission):
    """The key has one of the roles that the view declares for the method."""

    def has_permission(self, request: Request, view: "APIView") -> bool:
        """True if the view is open or the key's roles suffice; otherwise the error that says what was missing."""
        if getattr(view, "open_to_everyone", False):
            return True
        if request.user is None:
            raise Unauthenticated("An API key is needed: Authorization: Bearer KEY, or X-API-Key: KEY.")
        method = request.method or ""
        if method not in view.allowed_methods:
            return True  # there is no such handler: the answer is 405, which needs no role
        declared: Roles = getattr(view, "required_roles", {})
        needed = declared.get("GET" if method == "HEAD" else method, frozenset())
        if not needed & principal_of(request).roles:
            names = [role.value for role in Role if role in needed]
            raise Denied(
                f"The key lacks the role {' or '.join(names)}." if names else "This is not open to keys.",
                roles=[*names],
            )
        return True


def principal_of(request: Request) -> Principal:
    """Who asks. Only for views that are not open."""
    principal = request.user
    assert isinstance(principal, Principal)
    return principal
