"""The operator's pages, as a browser's requests."""

import re
from datetime import timedelta

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse
from django.test import Client, override_settings
from django.urls import path

from api.errors import TenantSuspended
from api.keys import CACHE_FOR, authenticate
from api.models import ApiKey
from catalog.definition import parse_definition
from catalog.limits import own_limits
from catalog.models import Snapshot, TableDef, Tenant, TenantLimitChange
from catalog.tables import create_table
from catalog.tenants import create_tenant
from duckmesh import urls
from duckmesh.kernel import clock
from ingest.models import IngestEvent
from tests.http import make_key

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def operator() -> Client:
    User.objects.create_superuser("operator", password="correct horse battery")
    browser = Client(enforce_csrf_checks=True)
    token = _token(browser, "/admin/login/")
    form = {
        "username": "operator",
        "password": "correct horse battery",
        "next": "/admin/",
        "csrfmiddlewaretoken": token,
    }
    assert browser.post("/admin/login/", form).status_code == 302
    return browser


def _token(browser: Client, address: str) -> str:
    found = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', browser.get(address).content.decode())
    assert found
    return found[1]


def submit(browser: Client, address: str, **form: object) -> str:
    """The page that the browser shows after the form was sent."""
    sent = browser.post(address, {**form, "csrfmiddlewaretoken": _token(browser, address)}, follow=True)
    assert sent.status_code == 200
    return sent.content.decode()


def test_the_admin_needs_an_operator(client: Client) -> None:
    for address in ("/admin/", "/admin/catalog/tenant/", "/admin/api/apikey/add/"):
        assert client.get(address).status_code == 302
    assert client.get("/admin/login/").status_code == 200
    assert client.get("/admin/", headers={"Authorization": "Bearer x"}).status_code == 302


def test_a_tenant_is_made_with_its_snapshot_0_then_suspended_and_resumed(operator: Client) -> None:
    submit(operator, "/admin/catalog/tenant/add/", tenant_id="acme", name="Acme")
    assert Snapshot.objects.get(tenant_id="acme").snapshot_id == 0
    assert Snapshot.objects.get(tenant_id="acme").created_by == "admin:operator"
    key, now = make_key("acme", "query_reader"), clock.now()
    assert authenticate(key, now) is not None
    submit(operator, "/admin/catalog/tenant/", action="suspend", _selected_action="acme")
    with pytest.raises(TenantSuspended):
        authenticate(key, now + CACHE_FOR)
    submit(operator, "/admin/catalog/tenant/", action="resume", _selected_action="acme")
    assert authenticate(key, now + 2 * CACHE_FOR) is not None


def test_a_tenant_that_cannot_be_is_refused_in_the_form(operator: Client) -> None:
    create_tenant(tenant_id="acme")
    for wrong in ("acme", "Acme", "../x", "", "a" * 64, "acme\n2"):
        assert "errorlist" in submit(operator, "/admin/catalog/tenant/add/", tenant_id=wrong, name="x")
    assert Tenant.objects.count() == 1


def test_a_tenant_can_be_renamed_and_neither_moved_nor_resumed_in_the_form(operator: Client) -> None:
    create_tenant(tenant_id="acme")
    submit(operator, "/admin/catalog/tenant/acme/change/", tenant_id="other", name="Acme & Sons", state="suspended")
    assert list(Tenant.objects.values_list("tenant_id", "name", "state")) == [("acme", "Acme & Sons", "active")]
    assert operator.get("/admin/catalog/tenant/acme/delete/").status_code == 403


def test_limits_are_set_shown_with_their_use_and_logged(operator: Client) -> None:
    address = "/admin/catalog/tenant/acme/change/"
    submit(operator, "/admin/catalog/tenant/add/", tenant_id="acme", name="Acme", max_stored_files="9")
    page = operator.get(address).content.decode()
    assert "0 of 9" in page
    assert "0 of 5,000,000" in page
    assert "Empty is the default of the configuration, 5,000,000; 0 is no bound." in page
    submit(operator, address, name="Acme", max_stored_files="", max_records_per_second="500", max_pending_records="0")
    own = own_limits(tenant_id="acme")
    assert (own["max_stored_files"], own["max_records_per_second"], own["max_pending_records"]) == (None, 500, 0)
    assert "0 of any number" in operator.get(address).content.decode()
    changes = TenantLimitChange.objects.order_by("changed_at").values_list("changed_by", "changes")
    assert list(changes) == [
        ("admin:operator", {"max_stored_files": [None, 9]}),
        (
            "admin:operator",
            {"max_stored_files": [9, None], "max_records_per_second": [None, 500], "max_pending_records": [None, 0]},
        ),
    ]
    assert "Changed Max records per second" in LogEntry.objects.latest("action_time").get_change_message()
    assert "admin:operator" in operator.get("/admin/catalog/tenantlimitchange/").content.decode()


def test_a_limit_that_cannot_be_is_refused_in_the_form(operator: Client) -> None:
    create_tenant(tenant_id="acme")
    for wrong in ("-1", "many", "1.5", str(2**63)):
        assert "errorlist" in submit(
            operator, "/admin/catalog/tenant/acme/change/", name="Other", max_stored_bytes=wrong
        )
    assert Tenant.objects.get().name == "acme"
    assert not TenantLimitChange.objects.exists()


def test_a_key_is_shown_once_and_revoked(operator: Client) -> None:
    create_tenant(tenant_id="acme")
    page = submit(
        operator,
        "/admin/api/apikey/add/",
        tenant="acme",
        name="loader",
        roles=["ingest_writer", "query_reader"],
        expires_at="",
    )
    shown = re.search(r'<code id="api-key">(\w+)</code>', page)
    assert shown
    key, now = shown[1], clock.now()
    principal = authenticate(key, now)
    assert principal is not None
    assert principal.roles == {"ingest_writer", "query_reader"}
    row = ApiKey.objects.get()
    assert row.created_by == "admin:operator"
    for address in ("/admin/api/apikey/", f"/admin/api/apikey/{row.key_id}/change/", "/admin/"):
        page = operator.get(address).content.decode()
        assert key not in page
        assert row.key_hash not in page
    submit(operator, "/admin/api/apikey/", action="revoke", _selected_action=row.key_id)
    assert authenticate(key, now + CACHE_FOR) is None


def test_the_answer_that_shows_a_key_is_not_kept(operator: Client) -> None:
    create_tenant(tenant_id="acme")
    token = _token(operator, "/admin/api/apikey/add/")
    answer = operator.post(
        "/admin/api/apikey/add/", {"tenant": "acme", "roles": "ops_admin", "csrfmiddlewaretoken": token}
    )
    assert "no-store" in answer["Cache-Control"]
    key = re.search(r'<code id="api-key">(\w+)</code>', answer.content.decode())
    assert key
    assert key[1] not in str(operator.cookies)


def test_a_key_without_roles_tenant_or_future_is_refused_in_the_form(operator: Client) -> None:
    create_tenant(tenant_id="acme")
    past = (clock.now() - timedelta(days=1)).strftime("%Y-%m-%d %H:%M")
    good = {"tenant": "acme", "roles": "query_reader"}
    for wrong in ({"tenant": ""}, {"tenant": "nobody"}, {"roles": []}, {"roles": ["root"]}, {"expires_at": past}):
        assert "errorlist" in submit(operator, "/admin/api/apikey/add/", **(good | wrong))
    assert not ApiKey.objects.exists()


def test_a_key_can_be_neither_edited_nor_deleted(operator: Client) -> None:
    create_tenant(tenant_id="acme")
    make_key("acme", "query_reader")
    row = ApiKey.objects.get()
    address = f"/admin/api/apikey/{row.key_id}"
    token = _token(operator, "/admin/api/apikey/")
    for page in ("change", "delete"):
        answer = operator.post(f"{address}/{page}/", {"name": "x", "post": "yes", "csrfmiddlewaretoken": token})
        assert answer.status_code == 403
    assert ApiKey.objects.get().name == "test"


def _forgetful(_request: HttpRequest) -> HttpResponse:
    return HttpResponse("It is done.")


class _Routes:
    urlpatterns = [path("admin/forgetful", _forgetful), *urls.urlpatterns]


def test_a_page_that_does_not_ask_for_the_token_itself_is_protected_all_the_same(operator: Client) -> None:
    """Django's own pages of the admin ask for it themselves; the middleware is for those that we may add."""
    token = _token(operator, "/admin/catalog/tenant/add/")
    with override_settings(ROOT_URLCONF=_Routes):
        assert operator.post("/admin/forgetful").status_code == 403
        assert operator.post("/admin/forgetful", {"csrfmiddlewaretoken": token}).status_code == 200


def test_a_form_from_elsewhere_is_refused(operator: Client) -> None:
    create_tenant(tenant_id="acme")
    assert operator.post("/admin/api/apikey/add/", {"tenant": "acme", "roles": "ops_admin"}).status_code == 403
    assert not ApiKey.objects.exists()


def test_tables_snapshots_and_events_are_only_shown(operator: Client) -> None:
    create_tenant(tenant_id="acme")
    columns = {"columns": [{"name": "a", "type": "int64"}]}
    table = create_table(
        tenant_id="acme", definition=parse_definition({"table_name": "t", "schema_json": columns}), actor="test"
    )
    event = IngestEvent.objects.create(
        tenant_id="acme",
        table_id=table.table_id,
        schema_version=1,
        first_token=1,
        last_token=2,
        record_count=2,
        size_bytes=9,
    )
    snapshot = Snapshot.objects.latest("snapshot_id")
    for model, pk in (
        ("catalog/tabledef", TableDef.objects.get().pk),
        ("catalog/snapshot", snapshot.pk),
        ("ingest/ingestevent", event.pk),
    ):
        assert operator.get(f"/admin/{model}/").status_code == 200
        assert operator.get(f"/admin/{model}/{pk}/change/").status_code == 200
        assert operator.get(f"/admin/{model}/add/").status_code == 403
        assert operator.get(f"/admin/{model}/{pk}/delete/").status_code == 403
    assert operator.get("/admin/ingest/ingestclaimbatch/").status_code == 200
