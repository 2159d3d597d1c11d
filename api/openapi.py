"""The OpenAPI document: made from the views, with what REST framework cannot know added here."""

from functools import cache
from typing import Any

import msgspec
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.openapi import AutoSchema

from api import serializers
from api.problems import CONTENT_TYPE

# `Any` in this file: parts of the document are plain JSON, as the generator makes and takes them.


class ApiKeyScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]  # the library has no types
    """The two ways to send a key."""

    target_class = "api.auth.ApiKeyAuthentication"
    name = ["bearer", "api_key"]

    def get_security_definition(self, _auto_schema: AutoSchema) -> list[dict[str, Any]]:
        """`Authorization: Bearer KEY` and `X-API-Key: KEY`."""
        return [
            {"type": "http", "scheme": "bearer", "description": "An API key, `dm_…`. It belongs to one tenant."},
            {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        ]


class EndpointSchema(AutoSchema):
    """What every operation has beside its own: the roles it asks for, and the one shape of its errors."""

    def get_auth(self) -> list[dict[str, list[str]]]:
        """Either header will do; the library would ask for both at once."""
        super().get_auth()  # declares the schemes
        return [] if getattr(self.view, "open_to_everyone", False) else [{"bearer": []}, {"api_key": []}]

    def get_operation(self, *args: Any, **kwargs: Any) -> dict[str, Any] | None:
        """The operation with its roles and its problem answers."""
        operation: dict[str, Any] | None = super().get_operation(*args, **kwargs)
        if operation is None:
            return None
        problem = self.resolve_serializer(serializers.PROBLEM, "response")
        operation["responses"]["default"] = {
            "description": "A problem. `error_code` says which; docs/errors.md lists them.",
            "content": {CONTENT_TYPE: {"schema": problem.ref}},
        }
        if "requestBody" in operation:
            # The library would leave out a body's being needed wherever no member of it is.
            operation["requestBody"]["required"] = not getattr(self.view, "body_is_optional", False)
        roles = sorted(getattr(self.view, "required_roles", {}).get(self.method, ()))
        if roles:
            operation["x-required-roles"] = [role.value for role in roles]
            needed = " or ".join(f"`{role.value}`" for role in roles)
            operation["description"] = f"{operation.get('description', '')}\n\nNeeds the role {needed}.".strip()
        return operation


_Generator: Any = SchemaGenerator


@cache
def document() -> bytes:
    """The document as JSON. It depends on nothing but the code, so one is enough for a process."""
    generator: Any = _Generator()
    return msgspec.json.encode(generator.get_schema(request=None, public=True))
