"""The contents of a new database: its tables, a tenant with a key of every role, an operator of the admin pages."""

import json
import secrets

from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import connections

from api.keys import create_api_key, owner_of
from api.models import Role
from catalog.models import Tenant
from catalog.tenants import create_tenant
from duckmesh.devstack.credentials import Credentials, read_json
from duckmesh.devstack.layout import Home
from duckmesh.devstack.programs import write_private
from duckmesh.kernel import clock

TENANT = "demo"
OPERATOR = "operator"


def prepare(home: Home, *, base_url: str) -> tuple[Credentials, str | None]:
    """See `bootstrap.prepare_database`."""
    try:
        call_command("migrate", interactive=False, verbosity=0)
        return _first_tenant(home, base_url=base_url), _operator(home)
    finally:
        connections.close_all()


def _first_tenant(home: Home, *, base_url: str) -> Credentials:
    if not Tenant.objects.filter(tenant_id=TENANT).exists():
        create_tenant(tenant_id=TENANT, name="Demonstration")
    key = read_json(home.credentials).get("api_key")
    if key is None or owner_of(key, clock.now()) != TENANT:
        key = create_api_key(tenant_id=TENANT, name="First key", roles=Role.values, actor="make up").api_key
    text = json.dumps({"base_url": base_url, "tenant_id": TENANT, "api_key": key}, indent=2)
    write_private(home.credentials, text + "\n")
    return Credentials(base_url=base_url, tenant_id=TENANT, api_key=key)


def _operator(home: Home) -> str | None:
    user = User.objects.filter(username=OPERATOR).first()
    if user is not None and home.operator.exists():
        return None
    password = secrets.token_urlsafe(12)
    if user is None:
        User.objects.create_superuser(OPERATOR, password=password)
    else:
        user.set_password(password)
        user.save(update_fields=["password"])
    write_private(home.operator, json.dumps({"username": OPERATOR, "password": password}, indent=2) + "\n")
    return password
