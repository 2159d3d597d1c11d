"""The second wall: what the role that programs connect as sees and may do, whatever statement it sends."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psycopg2
import pytest
from django.db import connection
from django.test import Client
from psycopg2.errors import InsufficientPrivilege

from api.views import runs, snapshots
from duckmesh.devstack.roles import OWNER
from duckmesh.postgresql.roles import LAKE
from ingest.key_index import rebuild_if_bloated
from maintenance.history import find_run
from tests.http import bearer, make_key, problem_of
from tests.lake import Lake
from tests.walls import PASSWORD, as_the_application, make_roles, make_tenants, rows_of, session

pytestmark = pytest.mark.django_db(transaction=True)

# Without a policy, because there is no tenant's row in them.
EXEMPT = {
    "auth_group": "operators of the admin",
    "auth_group_permissions": "operators of the admin",
    "auth_permission": "operators of the admin",
    "auth_user": "operators of the admin",
    "auth_user_groups": "operators of the admin",
    "auth_user_user_permissions": "operators of the admin",
    "django_admin_log": "what they did there",
    "django_session": "their sessions, looked up before it is known whose they are",
    "django_content_type": "names of models",
    "django_migrations": "names of migrations; only to be read",
    "beat_tick": "one row of the service",
    "catalog_identity": "one row of the service",
    "catalog_server": "one row of the service; only to be read and first written",
    "service_mode": "one row of the service",
}
OPERATORS = {"backup", "file_hold"}
# Written before the row that says whose they are, so whoever acts for somebody may.
WRITTEN_FIRST = {"ingest_payload"}

TABLES = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')"


@pytest.fixture
def tenants(tmp_path: Path) -> Iterator[tuple[str, str]]:
    make_roles()
    yield make_tenants(Lake(tmp_path))


def tables() -> list[str]:
    with connection.cursor() as cursor:
        cursor.execute(TABLES)
        return sorted(name for (name,) in cursor.fetchall() if name not in EXEMPT)


def counts(tenant: str | None) -> dict[str, int]:
    """How many rows of each table a session sees that acts for the tenant."""
    found = {}
    with session(tenant) as cursor:
        for table in tables():
            cursor.execute(f"SELECT count(*) FROM {table}")
            found[table] = cursor.fetchone()[0]
    return found


def test_every_table_has_a_policy_or_a_reason() -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            f"{TABLES} AND NOT (relrowsecurity AND EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = pg_class.oid))"
        )
        assert {name for (name,) in cursor.fetchall()} == set(EXEMPT)
        cursor.execute(f"{TABLES} AND relforcerowsecurity")
        assert cursor.fetchall() == []


def test_what_was_made_before_there_were_roles_becomes_the_owners() -> None:
    make_roles()
    with session(None, role=OWNER) as cursor:
        cursor.execute(
            "SELECT relname FROM pg_class"
            " WHERE relnamespace = 'public'::regnamespace AND relowner <> current_user::regrole"
            " UNION ALL SELECT proname FROM pg_proc"
            " WHERE pronamespace = 'public'::regnamespace AND proowner <> current_user::regrole"
        )
        assert cursor.fetchall() == []
        cursor.execute("ALTER TABLE beat_tick ADD COLUMN later int; ALTER TABLE beat_tick DROP COLUMN later")
        cursor.execute("SELECT row_security_active('tenant')")
        assert cursor.fetchone() == (False,)


def test_nobody_sees_nothing_and_each_tenant_its_own(tenants: tuple[str, str]) -> None:
    there = {table: len(rows_of(table)) for table in tables()}
    first, second, everybody = counts(tenants[0]), counts(tenants[1]), counts("*")
    assert everybody == there
    for strange in (None, "", "nobody-of-this-name", "%"):
        assert counts(strange) == dict.fromkeys(there, 0)
    assert {table for table, rows in first.items() if not rows} == OPERATORS
    assert first == second
    of_nobody = {table: there[table] - first[table] - second[table] for table in there}
    assert {table for table, rows in of_nobody.items() if rows} <= OPERATORS | {"maintenance_policy"}


def test_statement_without_a_condition_changes_only_the_tenants_rows(tenants: tuple[str, str]) -> None:
    first = counts(tenants[0])
    for acting, seen in ((tenants[0], first), ("", dict.fromkeys(first, 0))):
        with session(acting) as cursor:
            for table in tables():
                column = next(iter(rows_of(table)[0]))
                cursor.execute(f'UPDATE {table} SET "{column}" = "{column}"')
                assert cursor.rowcount == seen[table], table
    with session(tenants[0]) as cursor:
        cursor.execute("DELETE FROM snapshot_pin")
        assert cursor.rowcount == 1
        cursor.execute("DELETE FROM ingest_key")
        assert cursor.rowcount == first["ingest_key"]
    assert counts(tenants[1]) == first


def test_row_of_another_tenant_cannot_be_written(tenants: tuple[str, str]) -> None:
    mine, theirs = tenants
    own = {table: rows_of(table) for table in tables()}
    with session(theirs) as cursor:
        for table in own:
            cursor.execute(f"SELECT to_jsonb(t)::text FROM {table} t LIMIT 1")
            row = cursor.fetchone()
            for acting in (mine, ""):
                if row is None or (table in WRITTEN_FIRST and acting):
                    continue
                with session(acting) as writer, pytest.raises(InsufficientPrivilege, match="row-level security"):
                    writer.execute(f"INSERT INTO {table} SELECT * FROM jsonb_populate_record(NULL::{table}, %s)", row)
    with session(mine) as cursor:
        for table in [table for table, rows in own.items() if "tenant_id" in rows[0]]:
            with pytest.raises(InsufficientPrivilege, match="row-level security"):
                cursor.execute(f"UPDATE {table} SET tenant_id = %s", [theirs])


TAKE = "SELECT duckmesh_take_keys(%s, 1, '{1}', decode(%s, 'hex'), decode(%s, 'hex'), NULL, NULL)"
TAKE_GROUP = """
SELECT duckmesh_take_keys_of_group(ARRAY[%s], '{1}', '{1}', decode(%s, 'hex'), decode(%s, 'hex'), '{NULL}', '{NULL}')
"""


@pytest.mark.parametrize("function", [TAKE, TAKE_GROUP], ids=["alone", "group"])
def test_keys_of_another_tenants_table_cannot_be_taken(tenants: tuple[str, str], function: str) -> None:
    mine, theirs = tenants
    of = {row["tenant_id"]: row["table_id"] for row in rows_of("table_def")}
    before = len(rows_of("ingest_key"))
    for acting in (mine, "", None):
        with session(acting) as cursor, pytest.raises(psycopg2.Error) as refused:
            cursor.execute(function, [of[theirs], "00" * 16, "11" * 16])
        assert refused.value.pgcode == "DM001"
    assert len(rows_of("ingest_key")) == before
    with session(mine) as cursor:
        cursor.execute(function, [of[mine], "00" * 16, "11" * 16])
    assert len(rows_of("ingest_key")) == before + 1


FORBIDDEN = [
    "ALTER TABLE tenant DISABLE ROW LEVEL SECURITY",
    "ALTER TABLE tenant NO FORCE ROW LEVEL SECURITY",
    "DROP POLICY acting ON tenant",
    "CREATE POLICY mine ON tenant USING (true)",
    "DROP TABLE snapshot_pin",
    "TRUNCATE snapshot_pin",
    "CREATE TABLE public.mine (x int)",
    "CREATE FUNCTION public.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "ALTER FUNCTION duckmesh_require_own(bigint[]) SECURITY DEFINER",
    f"SET ROLE {OWNER}",
    f"SET SESSION AUTHORIZATION {OWNER}",
    "SET session_replication_role = replica",
    "SET row_security = off; SELECT count(*) FROM tenant",
    "CREATE ROLE mine",
    "CREATE DATABASE mine",
    "SELECT rolpassword FROM pg_authid",
    "SELECT pg_read_file('postgresql.conf')",
    "COPY (SELECT 1) TO PROGRAM 'true'",
    "INSERT INTO django_migrations (app, name, applied) VALUES ('a', 'b', now())",
    "UPDATE catalog_server SET timeline = 1",
    "DELETE FROM catalog_server",
]


def test_application_cannot_change_what_binds_it() -> None:
    make_roles()
    refused = []
    for statement in FORBIDDEN:
        with session("*") as cursor, suppress(InsufficientPrivilege):
            cursor.execute(statement)
            continue
        refused.append(statement)
    assert refused == FORBIDDEN


def test_reader_of_the_lake_reads_what_there_is_of_a_tenant_and_writes_nothing(tenants: tuple[str, str]) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE ROLE reader LOGIN PASSWORD '{PASSWORD}'; GRANT {LAKE} TO reader")
    try:
        with session(None, role="reader") as cursor:
            cursor.execute("SELECT count(*) FROM data_file")
            assert cursor.fetchone() == (0,)
        with session(tenants[0], role="reader") as cursor:
            cursor.execute("SELECT DISTINCT f.tenant_id FROM data_file f JOIN snapshot_file USING (file_id)")
            assert cursor.fetchall() == [(tenants[0],)]
            for statement in (
                "SELECT * FROM api_key",
                "SELECT * FROM ingest_payload",
                "SELECT * FROM auth_user",
                "DELETE FROM data_file",
                "SELECT duckmesh_take_keys(1, 1, '{}', '', '', NULL, NULL)",
                "SELECT duckmesh_drop_broken_key_indexes()",
            ):
                with pytest.raises(InsufficientPrivilege):
                    cursor.execute(statement)
    finally:
        with connection.cursor() as cursor:
            cursor.execute(f"REVOKE {LAKE} FROM reader; DROP ROLE reader")


def test_application_keeps_the_index_of_the_keys(tenants: tuple[str, str]) -> None:
    with connection.cursor() as cursor:
        cursor.execute("CREATE INDEX ingest_key_pkey_ccnew ON ingest_key (table_id, key_hash)")
        cursor.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'ingest_key_pkey_ccnew'::regclass")
        with as_the_application():
            assert rebuild_if_bloated(least_bytes=1)
        cursor.execute("SELECT to_regclass('ingest_key_pkey_ccnew')")
        assert cursor.fetchone() == (None,)


def run_of(tenant_id: str) -> str:
    return next(str(row["run_id"]) for row in rows_of("compaction_run") if row["tenant_id"] == tenant_id)


def test_look_up_that_forgets_the_tenant_finds_nothing_of_another(
    tenants: tuple[str, str], client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, theirs = tenants
    key = bearer(make_key(mine))
    monkeypatch.setattr(runs, "find_run", lambda *, run_id, **_: find_run(run_id=run_id))
    url = f"/v1/runs/{run_of(theirs)}"
    assert client.get(url, headers=key).status_code == 200, "as the owner nothing but the look-up is a wall"
    with as_the_application():
        problem_of(client.get(url, headers=key), 404, "RUN_NOT_FOUND")
        assert client.get(f"/v1/runs/{run_of(mine)}", headers=key).status_code == 200


def test_look_up_of_another_tenants_name_finds_nothing(
    tenants: tuple[str, str], client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, theirs = tenants
    key = bearer(make_key(mine))
    genuine = snapshots.principal_of
    monkeypatch.setattr(snapshots, "principal_of", lambda request: replace(genuine(request), tenant_id=theirs))
    shown = client.get("/v1/snapshots", headers=key).json()["snapshots"]
    assert len(shown) > 1, "as the owner nothing but the look-up is a wall"
    with as_the_application():
        assert client.get("/v1/snapshots", headers=key).json()["snapshots"] == []


def test_kept_connection_carries_no_tenant_into_the_next_request(tenants: tuple[str, str], client: Client) -> None:
    keys = [bearer(make_key(tenant_id)) for tenant_id in tenants]
    with as_the_application():
        for _ in range(2):
            for tenant_id, key in zip(tenants, keys, strict=True):
                shown = client.get("/v1/runs", headers=key).json()["runs"]
                assert {row["run_id"] for row in shown} == {
                    str(row["run_id"])
                    for table in ("compaction_run", "gc_run", "integrity_run", "restore_drill_run")
                    for row in rows_of(table)
                    if row["tenant_id"] == tenant_id
                }
                problem_of(client.get("/v1/tables/none", headers=key), 404, "TABLE_NOT_FOUND")
                assert client.get("/v1/tables").status_code == 401
            assert client.get("/v1/ready").status_code == 200
