"""The OpenAPI document and the page that shows it."""

from typing import Any

from django.http import HttpResponse
from drf_spectacular.utils import extend_schema
from drf_spectacular.views import SpectacularSwaggerSplitView
from rest_framework.request import Request
from rest_framework.response import Response

from api.headers import DOCS
from api.openapi import document
from api.views.base import OpenEndpoint


class OpenApi(OpenEndpoint):
    """The description of every address, made from the code."""

    @extend_schema(operation_id="openapi", summary="This document", responses={200: {"type": "object"}})
    def get(self, _request: Request) -> HttpResponse:
        """OpenAPI 3.1."""
        return HttpResponse(document(), content_type="application/json")


class Docs(OpenEndpoint, SpectacularSwaggerSplitView):
    """Swagger UI from files that come with the service: it works without the internet."""

    url_name = "openapi"

    @extend_schema(operation_id="docs", summary="This document as a page", responses={(200, "text/html"): str})
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """The page. `Any`: the library's own signature."""
        library: Any = super()
        page: Response = library.get(request, *args, **kwargs)
        page["Content-Security-Policy"] = DOCS
        return page
