"""The database itself refuses what must not be: every named constraint, by a statement that breaks it alone."""

import psycopg2
import pytest
from django.db import IntegrityError, connection, transaction

from tests.factories import make_snapshot, make_table, make_tenant

pytestmark = pytest.mark.django_db(transaction=True)

TABLE_DEF = (
    "INSERT INTO table_def (tenant_id, name, schema_version, next_field_id, primary_key_cols, partition_spec,"
    " sort_cols, compatibility_mode, created_in, dropped_in, grows, created_by) VALUES "
)
DATA_FILE = (
    "INSERT INTO data_file (tenant_id, table_id, path, row_count, size_bytes, sha256, content_algorithm, content_hash,"
    " schema_version, partition_values, column_stats, min_token, max_token, level, folded, unreferenced_since,"
    " tombstoned_at) VALUES "
)
SNAPSHOT = (
    "INSERT INTO snapshot (tenant_id, snapshot_id, parent_id, snapshot_time, visible_token, kind, created_by, summary)"
    " VALUES "
)
WATERMARK = (
    "INSERT INTO snapshot_table_watermark (tenant_id, snapshot_id, table_id, max_token, row_count, file_count,"
    " size_bytes) VALUES "
)
PIN = "INSERT INTO snapshot_pin (tenant_id, name, snapshot_id, created_by) VALUES "
SHA = "repeat('a', 64)"
EVENT = (
    "INSERT INTO ingest_event (tenant_id, table_id, schema_version, first_token, last_token, record_count, excluded,"
    " size_bytes, state, error, snapshot_id) VALUES "
)
CLAIM = (
    "INSERT INTO ingest_claim_batch (tenant_id, consumer_id, epoch, lease_until, state, envelope_limit, ended_at)"
    " VALUES "
)
SCHEMA_VERSION = "INSERT INTO table_schema_version (table_id, schema_version, schema_json, added_in) VALUES "
INTERVAL = "INSERT INTO snapshot_file (file_id, tenant_id, table_id, added_in, removed_in) VALUES "
INCIDENT = "INSERT INTO incident_audit (tenant_id, kind, severity, message, context) VALUES "
SAME_KEY_TWICE = (
    "INSERT INTO ingest_key (table_id, key_hash, payload_hash, event_id) SELECT {table}, h, h, 1"
    " FROM (SELECT md5('k')::uuid AS h UNION ALL SELECT md5('k')::uuid) keys"
)

# {t}: a tenant; {table}: its table, made in snapshot 1; {file}: its file, of snapshot 2. {other_…}: another tenant's.
CASES = {
    "tenant_id_form": ["INSERT INTO tenant (tenant_id, name, state, ddl_version) VALUES ('../x', 'x', 'active', 0)"],
    "tenant_state": ["UPDATE tenant SET state = 'gone' WHERE tenant_id = {t}"],
    "tenant_pkey": ["INSERT INTO tenant (tenant_id, name, state, ddl_version) VALUES ({t}, 'x', 'active', 0)"],
    **{
        f"tenant_{limit}": [f"UPDATE tenant SET {limit} = -1 WHERE tenant_id = {{t}}"]
        for limit in (
            "max_records_per_second",
            "max_bytes_per_second",
            "max_pending_records",
            "max_stored_bytes",
            "max_stored_files",
        )
    },
    "tenant_catalog_counters": [
        "UPDATE tenant_catalog SET snapshot_seq = -1 WHERE tenant_id = {t}",
        "UPDATE tenant_catalog SET visible_token = -1 WHERE tenant_id = {t}",
        "UPDATE tenant_catalog SET token_floor = -1 WHERE tenant_id = {t}",
        "UPDATE tenant_catalog SET incarnation = 0 WHERE tenant_id = {t}",
    ],
    "table_def_live_name": [
        TABLE_DEF + "({t}, 'EVENTS', 1, 1, '[]', '{{}}', '[]', 'none', 1, NULL, false, 'test')",
    ],
    "table_def_name_form": [
        TABLE_DEF + "({t}, 'a b', 1, 1, '[]', '{{}}', '[]', 'none', 1, NULL, false, 'test')",
        TABLE_DEF + "({t}, '', 1, 1, '[]', '{{}}', '[]', 'none', 1, NULL, false, 'test')",
        TABLE_DEF + "({t}, E'a\\n', 1, 1, '[]', '{{}}', '[]', 'none', 1, NULL, false, 'test')",
    ],
    "table_def_compatibility": ["UPDATE table_def SET compatibility_mode = 'some' WHERE table_id = {table}"],
    "table_def_interval": ["UPDATE table_def SET dropped_in = created_in WHERE table_id = {table}"],
    "table_interval_not_empty": [
        "INSERT INTO table_interval (table_id, created_in, dropped_in) VALUES ({table}, 1, 1)"
    ],
    "table_def_counters": [
        "UPDATE table_def SET schema_version = 0 WHERE table_id = {table}",
        "UPDATE table_def SET next_field_id = 0 WHERE table_id = {table}",
    ],
    "table_schema_version_number": [SCHEMA_VERSION + "({table}, 1, '{{}}', 5)"],
    "table_schema_version_counts_from_1": [SCHEMA_VERSION + "({table}, 0, '{{}}', 5)"],
    "snapshot_number": [SNAPSHOT + "({t}, 1, 0, now() + interval '1 day', 0, 'ingest', 'test', '{{}}')"],
    "snapshot_time_unique": [
        SNAPSHOT
        + "({t}, 9, 1, (SELECT snapshot_time FROM snapshot WHERE tenant_id = {t} AND snapshot_id = 1), 0, 'ingest',"
        " 'test', '{{}}')"
    ],
    "snapshot_counters": [
        "UPDATE snapshot SET visible_token = -1 WHERE tenant_id = {t} AND snapshot_id = 1",
        SNAPSHOT + "({t}, -1, -2, now() - interval '1 day', 0, 'ingest', 'test', '{{}}')",
    ],
    "snapshot_parent_is_older": [
        "UPDATE snapshot SET parent_id = 2 WHERE tenant_id = {t} AND snapshot_id = 1",
        "UPDATE snapshot SET parent_id = 1 WHERE tenant_id = {t} AND snapshot_id = 1",
        "UPDATE snapshot SET parent_id = NULL WHERE tenant_id = {t} AND snapshot_id = 1",
    ],
    "snapshot_kind": ["UPDATE snapshot SET kind = 'other' WHERE tenant_id = {t}"],
    "snapshot_table_watermark_once": [WATERMARK + "({t}, 2, {table}, 1, 1, 1, 1)"],
    "snapshot_table_watermark_totals": [
        WATERMARK + "({t}, 9, {table}, -1, 1, 1, 1)",
        WATERMARK + "({t}, 9, {table}, 1, -1, 1, 1)",
        WATERMARK + "({t}, 9, {table}, 1, 1, -1, 1)",
        WATERMARK + "({t}, 9, {table}, 1, 1, 1, -1)",
    ],
    "snapshot_table_watermark_table_of_tenant": [WATERMARK + "({t}, 9, {other_table}, 1, 1, 1, 1)"],
    "snapshot_pin_name": [PIN + "({t}, 'keep', 1, 'test')"],
    "snapshot_pin_name_form": [PIN + "({t}, 'a b', 1, 'test')", PIN + "({t}, '', 1, 'test')"],
    "snapshot_pin_of_snapshot": [
        PIN + "({t}, 'other', 99, 'test')",
        "DELETE FROM snapshot WHERE tenant_id = {t} AND snapshot_id = 2",
    ],
    "data_file_path": [
        DATA_FILE
        + "({t}, {table}, (SELECT path FROM data_file WHERE file_id = {file}), 1, 1, "
        + SHA
        + ", 'x', 1, 1, '{{}}',"
        " '{{}}', 1, 1, 0, false, NULL, NULL)"
    ],
    "data_file_counts": [
        "UPDATE data_file SET row_count = 0 WHERE file_id = {file}",
        "UPDATE data_file SET size_bytes = 0 WHERE file_id = {file}",
        "UPDATE data_file SET level = -1 WHERE file_id = {file}",
        "UPDATE data_file SET min_token = 0 WHERE file_id = {file}",
    ],
    "data_file_tokens": ["UPDATE data_file SET min_token = max_token + 1 WHERE file_id = {file}"],
    "data_file_sha256": ["UPDATE data_file SET sha256 = upper(" + SHA + ") WHERE file_id = {file}"],
    "data_file_tombstone_after_unreferenced": ["UPDATE data_file SET tombstoned_at = now() WHERE file_id = {file}"],
    "data_file_table_of_tenant": ["UPDATE data_file SET table_id = {other_table} WHERE file_id = {file}"],
    "snapshot_file_interval": ["UPDATE snapshot_file SET removed_in = added_in WHERE file_id = {file}"],
    "snapshot_file_live_once": [
        "INSERT INTO snapshot_file (file_id, tenant_id, table_id, added_in) VALUES ({file}, {t}, {table}, 9)"
    ],
    "snapshot_file_pkey": [INTERVAL + "({file}, {t}, {table}, 2, 9)"],
    "snapshot_file_file_of_tenant": [INTERVAL + "({other_file}, {t}, {table}, 8, 9)"],
    "snapshot_file_table_of_tenant": [INTERVAL + "({file}, {t}, {other_table}, 8, 9)"],
    "incident_audit_severity": [INCIDENT + "({t}, 'x', 'fatal', '', '{{}}')"],
    "ingest_event_token": [EVENT + "({t}, {table}, 1, 1, 1, 1, '{{}}', 1, 'pending', NULL, NULL)"],
    "ingest_event_tokens": [
        EVENT + "({t}, {table}, 1, 5, 5, 2, '{{}}', 1, 'pending', NULL, NULL)",
        EVENT + "({t}, {table}, 1, 0, 0, 1, '{{}}', 1, 'pending', NULL, NULL)",
        EVENT + "({t}, {table}, 1, 5, 4, 0, '{{}}', 1, 'pending', NULL, NULL)",
    ],
    "ingest_event_writes_or_restores": [
        EVENT + "({t}, NULL, 1, 5, 5, 1, '{{}}', 1, 'pending', NULL, NULL)",
        "UPDATE ingest_event SET restore_to = 1 WHERE tenant_id = {t}",
        (
            "UPDATE ingest_event SET restore_to = 1, table_id = NULL, record_count = 2, last_token = first_token + 1"
            " WHERE tenant_id = {t}"
        ),
    ],
    "ingest_event_state": [EVENT + "({t}, {table}, 1, 5, 5, 1, '{{}}', 1, 'done', NULL, NULL)"],
    "ingest_event_committed_in_a_snapshot": [
        EVENT + "({t}, {table}, 1, 5, 5, 1, '{{}}', 1, 'committed', NULL, NULL)",
        EVENT + "({t}, {table}, 1, 5, 5, 1, '{{}}', 1, 'pending', NULL, 1)",
    ],
    "ingest_event_failed_says_why": [
        EVENT + "({t}, {table}, 1, 5, 5, 1, '{{}}', 1, 'failed', NULL, NULL)",
        "UPDATE ingest_event SET state = 'failed', snapshot_id = NULL, error = '{{}}' WHERE tenant_id = {t}",
        "UPDATE ingest_event SET state = 'failed', snapshot_id = NULL, passed_in = 1 WHERE tenant_id = {t}",
    ],
    "ingest_event_passed": [
        "UPDATE ingest_event SET state = 'committed', snapshot_id = 3, passed_in = 3 WHERE tenant_id = {t}"
    ],
    "ingest_event_table_of_tenant": [EVENT + "({t}, {other_table}, 1, 5, 5, 1, '{{}}', 1, 'pending', NULL, NULL)"],
    "ingest_claim_one_live": [CLAIM + "({t}, 'w', 2, now(), 'claimed', 1, NULL)"],
    "ingest_claim_epoch": [CLAIM + "({t}, 'w', 1, now(), 'released', 1, now())"],
    "ingest_claim_state": [CLAIM + "({t}, 'w', 2, now(), 'lost', 1, now())"],
    "ingest_claim_ended": [
        CLAIM + "({t}, 'w', 2, now(), 'released', 1, NULL)",
        "UPDATE ingest_claim_batch SET ended_at = now() WHERE tenant_id = {t}",
    ],
    "ingest_claim_counters": [
        "UPDATE ingest_claim_batch SET epoch = 0 WHERE tenant_id = {t}",
        "UPDATE ingest_claim_batch SET envelope_limit = 0 WHERE tenant_id = {t}",
    ],
    "ingest_key_pkey": [SAME_KEY_TWICE],
}

TABLES = [
    "tenant",
    "tenant_catalog",
    "table_def",
    "table_interval",
    "table_schema_version",
    "snapshot",
    "snapshot_table_watermark",
    "snapshot_pin",
    "data_file",
    "snapshot_file",
    "incident_audit",
    "ingest_event",
    "ingest_payload",
    "ingest_key",
    "ingest_claim_batch",
    "ingest_claim_item",
]

# Only targets of composite keys: the primary key alone already makes these columns unique.
IMPLIED = {"data_file_of_tenant", "table_def_of_tenant"}


def prepare() -> dict[str, str]:
    """Two tenants with a table and a file each; the first has a pin, a pending envelope and a live claim too."""
    names: dict[str, str] = {}
    for prefix, tenant_id in (("", make_tenant()), ("other_", make_tenant())):
        table_id = make_table(tenant_id=tenant_id).table_id
        make_snapshot(tenant_id=tenant_id, table_id=table_id, watermark=10)
        names[prefix + "t"] = f"'{tenant_id}'"
        names[prefix + "table"] = str(table_id)
        with connection.cursor() as cursor:
            cursor.execute("SELECT file_id FROM data_file WHERE table_id = %s", [table_id])
            names[prefix + "file"] = str(cursor.fetchone()[0])
    with connection.cursor() as cursor:
        cursor.execute((PIN + "({t}, 'keep', 2, 'test')").format(**names))
        cursor.execute((EVENT + "({t}, {table}, 1, 1, 1, 1, '{{}}', 1, 'pending', NULL, NULL)").format(**names))
        cursor.execute((CLAIM + "({t}, 'w', 1, now(), 'claimed', 1, NULL)").format(**names))
    return names


@pytest.mark.parametrize("constraint", CASES)
def test_constraint_refuses(constraint: str) -> None:
    names = prepare()
    for statement in CASES[constraint]:
        with pytest.raises(IntegrityError) as refusal, transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(statement.format(**names))
            cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        cause = refusal.value.__cause__
        assert isinstance(cause, psycopg2.Error)
        assert cause.diag.constraint_name == constraint, statement


@pytest.mark.parametrize("kind", ["compaction_run", "gc_run", "integrity_run", "restore_drill_run"])
def test_maintenance_run_is_refused(kind: str) -> None:
    names = prepare()
    insert = (
        f"INSERT INTO {kind} (run_id, tenant_id, state, epoch, attempts, cancel_requested, phase, options, cursor,"
        " steps, summary, error_code, error, requested_by, reason, progress, started_at, lease_until, ended_at)"
        " VALUES (gen_random_uuid(), {t}, %s, 1, 1, false, '', '{{}}', '{{}}', '[]', '{{}}', '', '', 'test', '', %s,"
        " now() + %s::interval, now() + %s::interval, now() + %s::interval)"
    ).format(**names)
    wrong: dict[str, tuple[str, float, str | None, str | None, str | None]] = {
        "state": ("lost", 0, None, None, "1s"),
        "progress": ("queued", 1.5, None, None, None),
        "ended": ("failed", 0, None, None, None),
        "leased": ("running", 0, "0s", None, None),
        "one_live": ("running", 0, "0s", "1s", None),
    }
    with connection.cursor() as cursor:
        cursor.execute(insert, ["running", 0, "0s", "1s", None])
        for _ in range(2):
            cursor.execute(insert, ["queued", 0, None, None, None])
    for constraint, values in wrong.items():
        with pytest.raises(IntegrityError) as refusal, transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(insert, values)
        assert isinstance(refusal.value.__cause__, psycopg2.Error)
        assert refusal.value.__cause__.diag.constraint_name == f"{kind}_{constraint}"


def test_every_named_constraint_of_catalog_and_ingest_has_a_case() -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT conname FROM pg_constraint c JOIN pg_class t ON t.oid = c.conrelid
             WHERE t.relname = ANY (%(tables)s) AND contype IN ('c', 'u', 'f')
            UNION
            SELECT i.relname FROM pg_index x
              JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_class t ON t.oid = x.indrelid
             WHERE t.relname = ANY (%(tables)s) AND x.indisunique AND NOT x.indisprimary
            """,
            {"tables": TABLES},
        )
        named = {row[0] for row in cursor.fetchall()}
    # Django makes up the names of single-column foreign keys; ours are written down.
    made_up = {name for name in named if "_fk_" in name}
    assert named - made_up - IMPLIED - set(CASES) == set()
    assert named >= IMPLIED
