"""Two tenants with a row in every table that tenants have rows in, and sessions of the role of the programs."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg2
from django.conf import settings
from django.db import connection

from duckmesh.devstack.roles import APP, prepare_roles
from duckmesh.postgresql.roles import connected, grant
from tests.factories import make_table, make_tenant
from tests.http import make_key
from tests.lake import Lake, fail_oldest, write_ids

PASSWORD = "of-the-tests"
RUNS = ("compaction_run", "gc_run", "integrity_run", "restore_drill_run")

# What no request or worker of this test leaves behind: an INSERT a table, of one tenant.
_ROWS = (
    (
        "table_interval (table_id, created_in, dropped_in)"
        " SELECT table_id, 0, 1 FROM table_def WHERE tenant_id = %(tenant)s"
    ),
    (
        "void_range (incarnation, first_token, last_token, first_snapshot_id, last_snapshot_id, dumped_at, tenant_id)"
        " VALUES (1, 1, 2, 1, 2, now(), %(tenant)s)"
    ),
    "tenant_limit_change (changes, changed_by, tenant_id) VALUES ('{}', 'test', %(tenant)s)",
    "snapshot_pin (name, snapshot_id, created_by, tenant_id) VALUES ('kept', 0, 'test', %(tenant)s)",
    (
        "query_audit (key_id, sql_hash, outcome, duration_ms, row_count, size_bytes, query_id, at, tenant_id)"
        " VALUES ('k', repeat('0', 64), 'INTERNAL', 1, 1, 1, '', now(), %(tenant)s)"
    ),
    (
        "query_running (query_id, key_id, sql_hash, sql_text, started_at, seen_at, tenant_id)"
        " VALUES (md5(%(tenant)s), 'k', repeat('0', 64), '', now(), now(), %(tenant)s)"
    ),
    *(
        f"{table} (run_id, state, epoch, cancel_requested, progress, phase, options, summary, error, requested_by,"
        " attempts, cursor, error_code, reason, steps, tenant_id)"
        " VALUES (gen_random_uuid(), 'queued', 0, false, 0, '', '{}', '{}', '', 'test', 0, '{}', '', '', '[]',"
        " %(tenant)s)"
        for table in RUNS
    ),
    (
        "integrity_finding (kind, severity, runbook, object_key, detail, subject, run_id, tenant_id)"
        " SELECT 'x', 'info', '', '', '{}', '', run_id, tenant_id FROM integrity_run WHERE tenant_id = %(tenant)s"
    ),
    (
        "maintenance_policy (kind, name, enabled, interval, options, tenant_id)"
        " VALUES ('compaction', %(tenant)s, true, interval '1 day', '{}', %(tenant)s)"
    ),
    (
        "maintenance_schedule (kind, name, requested_at, run_id, tenant_id)"
        " VALUES ('compaction', %(tenant)s, now(), gen_random_uuid(), %(tenant)s)"
    ),
    "orphan_sighting (path, size_bytes, tenant_id) VALUES (%(tenant)s || '/x', 1, %(tenant)s)",
    "orphan_sweep (tenant_id, ended_at) VALUES (%(tenant)s, now())",
    "ingest_staged (path, size_bytes, tenant_id) VALUES (%(tenant)s || '/staged', 1, %(tenant)s)",
)
_OPERATORS = """
INSERT INTO backup (name, directory, state, incarnation, with_data, encrypted, error)
VALUES ('b', '/b', 'running', 1, false, false, '');
INSERT INTO file_hold (kind, name, created_at) VALUES ('backup', 'b', now());
"""


def make_roles() -> None:
    """The connected database has the roles, and the application may use it."""
    database = connection.settings_dict["NAME"]
    address, _ = settings.DUCKMESH.database_url.rsplit("/", 1)
    prepare_roles(f"{address}/{database}", owner_password=PASSWORD, app_password=PASSWORD)
    grant(application=APP)


def make_tenants(lake: Lake) -> tuple[str, str]:
    """Two tenants, each with rows in every table; and the operator's own rows."""
    tenants = (make_tenant(), make_tenant())
    for tenant_id in tenants:
        make_table(tenant_id=tenant_id)
        make_key(tenant_id)
        write_ids(tenant_id, "seen")
        lake.materialize(tenant_id)
        write_ids(tenant_id, "fails")
        fail_oldest(tenant_id)
        write_ids(tenant_id, "waits")
        with connection.cursor() as cursor:
            for rows in _ROWS:
                cursor.execute(f"INSERT INTO {rows}", {"tenant": tenant_id})
    with connection.cursor() as cursor:
        cursor.execute(_OPERATORS)
    return tenants


# `Any`: psycopg2 has no types.
@contextmanager
def session(tenant: str | None, *, role: str = APP) -> Iterator[Any]:
    """A cursor of a new session of the role, which has said that it acts for `tenant`, or nothing at all."""
    made = psycopg2.connect(
        host=connection.settings_dict["HOST"],
        port=connection.settings_dict["PORT"],
        dbname=connection.settings_dict["NAME"],
        user=role,
        password=PASSWORD,
    )
    made.autocommit = True
    try:
        cursor = made.cursor()
        if tenant is not None:
            cursor.execute("SELECT set_config('duckmesh.tenant', %s, false)", [tenant])
        yield cursor
    finally:
        made.close()


@contextmanager
def as_the_application() -> Iterator[None]:
    """Django's connection of this thread is one of the role that programs connect as."""
    with connected(USER=APP, PASSWORD=PASSWORD):
        yield


def rows_of(table: str) -> list[dict[str, Any]]:
    """All of them, whoever's they are."""
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT to_jsonb(t)::text FROM {table} t")
        return [json.loads(row) for (row,) in cursor.fetchall()]
