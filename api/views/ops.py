"""What operators and their machines ask: health, readiness, metrics, lag."""

from dataclasses import asdict
from datetime import timedelta
from functools import cache

from django.conf import settings
from django.http import HttpResponse
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from api import doctor_serializers, metrics, readiness
from api import ops_serializers as serializers
from api.auth import principal_of
from api.doctor.examining import Doctor
from api.doctor.findings import worst
from api.doctor.setup import doctor
from api.gauges.reading import Reading
from api.models import Role
from api.process import guard_policy, object_store, scrape_policy
from api.views.base import Endpoint, OpenEndpoint
from catalog.mode import service_mode
from catalog.server import Standing, standing
from ingest.backlog import lag
from ingest.guard import shortages


class Health(OpenEndpoint):
    """The process lives; nothing else is asked."""

    @extend_schema(operation_id="health", summary="Is the process alive?", responses=serializers.Health)
    def get(self, _request: Request) -> Response:
        """Always the same answer, from this process alone."""
        return Response({"status": "ok"})


@cache
def _readiness() -> readiness.Readiness:
    config = settings.DUCKMESH
    probes = {
        "postgresql": readiness.postgresql,
        "migrations": readiness.migrations,
        "redis": readiness.broker(config.redis_url),
        "object_store": lambda: object_store().ping(),
        "query_sealing": readiness.sealing(allow_unsealed=config.allow_unsealed_sql),
    }
    return readiness.Readiness(probes, within=timedelta(seconds=2))


class Ready(OpenEndpoint):
    """Whether requests would succeed."""

    @extend_schema(operation_id="ready", summary="Does everything it depends on answer?", responses=serializers.Ready)
    def get(self, _request: Request) -> Response:
        """200 if all is well; otherwise 503 whose `context.checks` names what is down.

        Ready for reads is ready: when writes are refused, for want of room, by an operator, or because PostgreSQL is
        another server than the catalog's, `writes` says so, and the answer is 200.
        """
        checks = _readiness().require()
        short, mode, server = sorted(shortages(guard_policy())), service_mode(), standing()
        writes = {
            "taken": not short and not mode.read_only and server == Standing.KNOWN,
            "short_of": short,
            "mode": mode.mode.value,
            "server": server.value,
        }
        return Response({"status": "ready", "checks": checks, "writes": writes})


class Lag(Endpoint):
    """How far the tenant's visible state is behind its accepted writes."""

    required_roles = {"GET": frozenset({Role.OPS_ADMIN})}

    @extend_schema(operation_id="lag", summary="How far is visibility behind?", responses=serializers.LagAnswer)
    def get(self, request: Request) -> Response:
        """Read from the catalog: true also when every worker is dead. Counts are records."""
        return Response(asdict(lag(tenant_id=principal_of(request).tenant_id)))


@cache
def _doctor() -> Doctor:
    return doctor(settings.DUCKMESH, objects=object_store(), guard=guard_policy())


class Examination(Endpoint):
    """What `manage.py doctor` finds, in the process that answers."""

    required_roles = {"GET": frozenset({Role.OPS_ADMIN})}

    @extend_schema(
        operation_id="doctor",
        summary="Is everything as an acknowledgement and an answer need it?",
        responses=doctor_serializers.Examination,
    )
    def get(self, _request: Request) -> Response:
        """Of the service, not of a tenant. The answer is 200 whatever is found; `status` is the worst of all."""
        found = _doctor().examine()
        return Response({"status": worst(found), "checks": [asdict(each) for each in found]})


@cache
def _reading() -> Reading:
    return metrics.reading(scrape_policy())


class Metrics(OpenEndpoint):
    """For Prometheus."""

    @extend_schema(operation_id="metrics", summary="Metrics", responses={(200, "text/plain"): str})
    def get(self, _request: Request) -> HttpResponse:
        """Prometheus' text format: this instance's counters, and gauges read where they are true now."""
        return HttpResponse(metrics.page(_reading()), content_type=metrics.CONTENT_TYPE)
