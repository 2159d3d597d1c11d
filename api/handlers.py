"""Django's own error pages, in the API's shape: what happens before or outside the API's views."""

import sys

from django.http import HttpRequest, HttpResponse

from api import problems


def failed(request: HttpRequest, exception: Exception) -> HttpResponse:
    """400, 403 and 404: an address that is no route, a Host that is not ours, a page of the admin that is refused."""
    return problems.answer(exception, request)


def server_error(request: HttpRequest) -> HttpResponse:
    """500 from a part of Django that no other handler sees."""
    return problems.answer(sys.exc_info()[1] or RuntimeError("unknown"), request)
