"""What every view of the API has."""

from collections.abc import Sequence
from typing import ClassVar

from rest_framework.authentication import BaseAuthentication
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.views import APIView

from api.auth import ApiKeyAuthentication, HasRole, Roles
from api.openapi import EndpointSchema
from api.renderers import FirstRenderer


class Endpoint(APIView):
    """A view of the API. It declares the roles of each method, or that it is open to everyone."""

    required_roles: ClassVar[Roles] = {}
    open_to_everyone: ClassVar[bool] = False
    body_is_optional: ClassVar[bool] = False
    http_method_names = ["get", "head", "post", "patch", "delete"]
    content_negotiation_class: type[BaseContentNegotiation] = FirstRenderer
    authentication_classes: Sequence[type[BaseAuthentication]] = (ApiKeyAuthentication,)
    permission_classes = (HasRole,)
    schema = EndpointSchema()


class OpenEndpoint(Endpoint):
    """Needs no key, reads none, and tells nothing about a tenant by name."""

    open_to_everyone = True
    authentication_classes = ()
