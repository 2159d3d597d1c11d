"""Keys: what they open, for whom, and how fast they stop."""

import logging
from datetime import timedelta

import pytest
from django.db import IntegrityError, transaction
from django.test import Client, override_settings
from django.urls import path
from rest_framework.request import Request
from rest_framework.response import Response

from api.errors import TenantSuspended
from api.keys import CACHE_FOR, authenticate, create_api_key, owner_of, revoke_api_key
from api.models import ApiKey
from api.views.base import Endpoint
from catalog.errors import TenantNotFound
from catalog.models import Tenant
from catalog.tenants import create_tenant, resume_tenant, suspend_tenant
from duckmesh import urls
from duckmesh.kernel import clock
from duckmesh.kernel.errors import Invalid
from tests.http import bearer, make_key, problem_of

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def tenant() -> Tenant:
    return create_tenant(tenant_id="acme", name="Acme")


def test_a_key_speaks_for_its_tenant_with_its_roles(tenant: Tenant) -> None:
    created = create_api_key(
        tenant_id="acme", name="loader", roles=["query_reader", "ingest_writer", "query_reader"], actor="test"
    )
    principal = authenticate(created.api_key, clock.now())
    assert principal is not None
    assert (principal.tenant_id, principal.key_id) == ("acme", created.key_id)
    assert principal.roles == {"ingest_writer", "query_reader"}
    assert created.roles == ("ingest_writer", "query_reader")
    assert created.api_key.startswith(f"dm_{created.key_id}_")


def test_the_secret_is_stored_nowhere(tenant: Tenant, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    created = create_api_key(tenant_id="acme", name="loader", roles=["query_reader"], actor="test")
    authenticate(created.api_key, clock.now())
    secret = created.api_key.rpartition("_")[2]
    row = ApiKey.objects.get(key_id=created.key_id)
    assert secret not in str({name: getattr(row, name) for name in (f.attname for f in ApiKey._meta.fields)})
    assert secret not in repr(created)
    assert secret not in caplog.text
    assert created.api_key.startswith(row.prefix)


def test_a_wrong_secret_opens_nothing(tenant: Tenant) -> None:
    key = make_key("acme", "query_reader")
    assert authenticate(key, clock.now()) is not None
    for wrong in (
        key[:-1],
        key + "x",
        key.upper(),
        key.replace("dm_", "md_"),
        key.rpartition("_")[0],
        "",
        "dm__",
        "dm_é_x",
    ):
        assert authenticate(wrong, clock.now()) is None


def test_an_expired_key_opens_nothing(tenant: Tenant) -> None:
    now = clock.now()
    soon = now + timedelta(minutes=5)
    created = create_api_key(tenant_id="acme", name="", roles=["query_reader"], expires_at=soon, actor="test")
    assert authenticate(created.api_key, now) is not None
    assert authenticate(created.api_key, soon - timedelta(microseconds=1)) is not None
    assert authenticate(created.api_key, soon) is None


def test_a_key_cannot_be_made_expired_or_without_sense(tenant: Tenant) -> None:
    past = clock.now() - timedelta(seconds=1)
    with pytest.raises(Invalid):
        create_api_key(tenant_id="acme", name="", roles=["query_reader"], expires_at=past, actor="test")
    with pytest.raises(Invalid):
        create_api_key(tenant_id="acme", name="", roles=[], actor="test")
    with pytest.raises(Invalid):
        create_api_key(tenant_id="acme", name="", roles=["root"], actor="test")
    with pytest.raises(TenantNotFound):
        create_api_key(tenant_id="nobody", name="", roles=["query_reader"], actor="test")


def test_a_revoked_key_holds_for_less_than_a_second_in_other_processes(tenant: Tenant) -> None:
    key = make_key("acme", "query_reader")
    now = clock.now()
    assert authenticate(key, now) is not None
    # Another process revokes it: this process's memory of the key is not told.
    ApiKey.objects.update(revoked_at=now)
    assert authenticate(key, now + CACHE_FOR) is None
    assert timedelta(seconds=1) > CACHE_FOR


def test_a_revoked_key_stops_at_once_in_the_process_that_revokes_it(tenant: Tenant) -> None:
    created = create_api_key(tenant_id="acme", name="", roles=["query_reader"], actor="test")
    now = clock.now()
    assert authenticate(created.api_key, now) is not None
    revoke_api_key(key_id=created.key_id)
    assert authenticate(created.api_key, now) is None
    first = ApiKey.objects.get().revoked_at
    revoke_api_key(key_id=created.key_id)
    assert ApiKey.objects.get().revoked_at == first


def test_the_keys_of_a_suspended_tenant_stop_and_start_again(tenant: Tenant) -> None:
    key = make_key("acme", "query_reader")
    now = clock.now()
    assert authenticate(key, now) is not None
    suspend_tenant(tenant_id="acme", reason="", actor="test")
    with pytest.raises(TenantSuspended):
        authenticate(key, now + CACHE_FOR)
    assert owner_of(key, now + CACHE_FOR) == "acme"
    assert authenticate(key[:-1] + ("a" if key[-1] != "a" else "b"), now + CACHE_FOR) is None
    resume_tenant(tenant_id="acme", reason="", actor="test")
    assert authenticate(key, now + 2 * CACHE_FOR) is not None


def test_a_revoked_key_of_a_suspended_tenant_is_told_no_more_than_others(tenant: Tenant) -> None:
    key = make_key("acme", "query_reader")
    suspend_tenant(tenant_id="acme", reason="", actor="test")
    ApiKey.objects.update(revoked_at=clock.now())
    assert authenticate(key, clock.now()) is None


def test_a_clock_set_back_does_not_keep_a_key_alive(tenant: Tenant) -> None:
    key = make_key("acme", "query_reader")
    now = clock.now()
    assert authenticate(key, now) is not None
    ApiKey.objects.update(revoked_at=now)
    assert authenticate(key, now - timedelta(hours=1)) is None


def test_the_database_refuses_a_role_that_does_not_exist(tenant: Tenant) -> None:
    make_key("acme", "query_reader")
    for roles in (["root"], [], ["query_reader", "root"]):
        with pytest.raises(IntegrityError), transaction.atomic():
            ApiKey.objects.update(roles=roles)


def test_both_headers_carry_a_key(tenant: Tenant, client: Client) -> None:
    key = make_key("acme", "table_admin")
    for headers in ({"Authorization": f"Bearer {key}"}, {"authorization": f"bearer   {key}"}, {"X-API-Key": key}):
        assert client.get("/v1/tables", headers=headers).status_code == 200


def test_a_request_without_a_valid_key_is_unauthenticated(tenant: Tenant, client: Client) -> None:
    key = make_key("acme", "table_admin")
    for headers in (
        {},
        {"Authorization": "Bearer dm_aaaaaaaaaaaa_nothing"},
        {"Authorization": "Basic YWRtaW46YWRtaW4="},
        {"Authorization": key},
        {"Authorization": "Bearer"},
        {"X-API-Key": ""},
    ):
        response = client.get("/v1/tables", headers=headers)
        problem = problem_of(response, 401, "UNAUTHENTICATED")
        assert response["WWW-Authenticate"].startswith("Bearer")
        assert key not in str(problem)


def test_a_role_is_not_implied_by_another(tenant: Tenant, client: Client) -> None:
    for role in ("ingest_writer", "query_reader", "ops_admin"):
        response = client.delete("/v1/tables/t", headers=bearer(make_key("acme", role)))
        problem = problem_of(response, 403, "FORBIDDEN")
        assert problem["context"] == {"roles": ["table_admin"]}


class _Undeclared(Endpoint):
    def get(self, _request: Request) -> Response:
        return Response({})


class _Routes:
    urlpatterns = [path("undeclared", _Undeclared.as_view()), *urls.urlpatterns]
    handler404 = urls.handler404


def test_a_view_that_declares_nothing_is_refused_to_every_key(tenant: Tenant, client: Client) -> None:
    with override_settings(ROOT_URLCONF=_Routes):
        problem_of(client.get("/undeclared"), 401, "UNAUTHENTICATED")
        problem_of(client.get("/undeclared", headers=bearer(make_key("acme"))), 403, "FORBIDDEN")
