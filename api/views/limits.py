"""What the key's tenant may use, and what it uses."""

from dataclasses import asdict

from django.conf import settings
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from api import ops_serializers as serializers
from api.auth import principal_of
from api.models import Role
from api.views.base import Endpoint
from catalog.limits import Limits, effective_limits, usage


class TenantLimits(Endpoint):
    """Limits are set by an operator (`manage.py limits`, the admin); the tenant's keys can see them."""

    required_roles = {"GET": frozenset({Role.INGEST_WRITER, Role.OPS_ADMIN})}

    @extend_schema(operation_id="limits", summary="What may the tenant use?", responses=serializers.LimitsAnswer)
    def get(self, request: Request) -> Response:
        """The limits that hold now, and the usage that they are held against. A limit of 0 is none."""
        tenant_id = principal_of(request).tenant_id
        limits = effective_limits(tenant_id=tenant_id, defaults=Limits.of(settings.DUCKMESH))
        used = usage(tenant_id=tenant_id)
        return Response({"tenant_id": tenant_id, "limits": asdict(limits), "usage": asdict(used)})
