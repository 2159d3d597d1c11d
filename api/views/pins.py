"""Pins over HTTP: named holds on snapshots."""

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.reverse import reverse

from api import paging
from api import snapshot_serializers as serializers
from api.auth import principal_of
from api.models import Role
from api.parsers import control_body, require_members
from api.snapshot_ids import id_in_body
from api.views.base import Endpoint
from catalog.errors import PinNotFound
from catalog.models import SnapshotPin
from catalog.pins import get_pin, list_pins, pin_snapshot, unpin_snapshot
from duckmesh.kernel import clock
from duckmesh.kernel.errors import Invalid

_READERS = frozenset({Role.QUERY_READER, Role.TABLE_ADMIN, Role.OPS_ADMIN})
_KEEPERS = frozenset({Role.TABLE_ADMIN, Role.OPS_ADMIN})


def shown_pin(pin: SnapshotPin) -> dict[str, Any]:
    """A pin as callers see it; the last edge before JSON."""
    return {
        "name": pin.name,
        "snapshot_id": pin.snapshot_id,
        "created_at": clock.rfc3339(pin.created_at),
        "created_by": pin.created_by,
        "expires_at": clock.rfc3339(pin.expires_at) if pin.expires_at else None,
    }


class NewPin(Endpoint):
    """A hold on a snapshot."""

    required_roles = {"POST": _KEEPERS}

    @extend_schema(
        operation_id="pin_snapshot",
        summary="Pin a snapshot",
        request=serializers.PinBody,
        responses={201: serializers.Pin},
    )
    def post(self, request: Request) -> Response:
        """The snapshot does not expire until the pin is removed or its `expires_at` has passed.

        409 `PIN_EXISTS` if the name is taken, 410 `SNAPSHOT_EXPIRED` if the snapshot is gone already.
        """
        who, body = principal_of(request), control_body(request)
        require_members(body, "snapshot_id", "name", "expires_at")
        snapshot_id = id_in_body(body.get("snapshot_id"))
        name, until = body.get("name"), body.get("expires_at")
        if not isinstance(name, str):
            raise Invalid("name must be the name of the pin.")
        expires_at = clock.parse_rfc3339(until)
        if until is not None and expires_at is None:
            raise Invalid("expires_at must be an RFC 3339 time with an offset, such as 2013-01-01T10:00:00Z.")
        pin = pin_snapshot(
            tenant_id=who.tenant_id,
            snapshot_id=snapshot_id,
            name=name,
            actor=f"key:{who.key_id}",
            expires_at=expires_at,
        )
        return Response(shown_pin(pin), status=201, headers={"Location": reverse("pin", kwargs={"name": pin.name})})


class Pins(Endpoint):
    """The pins of the key's tenant."""

    required_roles = {"GET": _READERS}

    @extend_schema(
        operation_id="list_pins", summary="List pins", parameters=paging.PARAMETERS, responses=serializers.PinList
    )
    def get(self, request: Request) -> Response:
        """A page of the pins that hold a snapshot, in the order of their names."""
        tenant_id, limit = principal_of(request).tenant_id, paging.limit_of(request.GET)
        after = paging.position_of(request.GET)
        if "\0" in after:
            raise Invalid("cursor must be the next_cursor of an earlier page.")
        found = list_pins(tenant_id=tenant_id, after=after, limit=limit + 1)
        page, more = found[:limit], len(found) > limit
        return Response(
            {
                "tenant_id": tenant_id,
                "pins": [shown_pin(pin) for pin in page],
                "next_cursor": paging.cursor_behind(page[-1].name) if more else None,
            }
        )


class OnePin(Endpoint):
    """One pin of the key's tenant."""

    required_roles = {"GET": _READERS, "DELETE": _KEEPERS}

    @extend_schema(operation_id="get_pin", summary="Describe a pin", responses=serializers.Pin)
    def get(self, request: Request, name: str) -> Response:
        """The snapshot that the pin holds, and for how long."""
        return Response(shown_pin(get_pin(tenant_id=principal_of(request).tenant_id, name=_pin_name(name))))

    @extend_schema(operation_id="unpin_snapshot", summary="Remove a pin", responses={204: None})
    def delete(self, request: Request, name: str) -> Response:
        """The snapshot expires when retention says so, unless another pin holds it."""
        who = principal_of(request)
        unpin_snapshot(tenant_id=who.tenant_id, name=_pin_name(name))
        return Response(status=204)


def _pin_name(text: str) -> str:
    if "\0" in text:
        raise PinNotFound("There is no such pin.")
    return text
