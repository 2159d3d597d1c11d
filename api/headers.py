"""What every answer tells a browser that meets it, by mistake or on purpose; Django's own middleware says the rest.

An answer of the API is data: nothing in it may run, be shown in a frame, be read from another site or be kept. The two
kinds of pages there are, the docs and the admin, load what this service serves and nothing else.
"""

from collections.abc import Callable, Mapping

from django.http import HttpRequest
from django.http.response import HttpResponseBase

_NOBODY = "base-uri 'none'; frame-ancestors 'none'"

DATA = f"default-src 'none'; form-action 'none'; {_NOBODY}"
ADMIN = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self';"
    f" form-action 'self'; {_NOBODY}"
)
# Swagger UI writes styles into the page; its script is an address of its own, so that none stands in the page.
DOCS = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self';"
    f" form-action 'none'; {_NOBODY}"
)

EVERYWHERE: Mapping[str, str] = {
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Cache-Control": "no-store",
}


class PagePolicy:
    """Each answer says what a browser may do with it, unless its view has said so itself."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        response = self.get_response(request)
        response.headers.setdefault("Content-Security-Policy", policy_of(request.path_info))
        for name, value in EVERYWHERE.items():
            response.headers.setdefault(name, value)
        return response


def policy_of(path: str) -> str:
    """The Content-Security-Policy of an address whose view does not name one."""
    return ADMIN if path.startswith("/admin/") else DATA
