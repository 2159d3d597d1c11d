"""Queries as the API asks them: one snapshot, exact tokens, sealed runners, over files written by hand."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from catalog.errors import IngestFailed, SnapshotExpired, SnapshotNotFound, TableNotFound
from catalog.expire import expire_snapshots
from catalog.models import IncidentAudit, Snapshot, Tenant
from catalog.publish import NewFile, publish_snapshot
from catalog.readset import ReadFile
from catalog.schema import ParsedColumn, arrow_schema
from catalog.snapshots import SnapshotInfo, resolve
from catalog.tables import TableInfo, drop_table
from duckmesh.kernel import clock
from duckmesh.kernel.clock import rfc3339
from duckmesh.kernel.config import ROOT
from duckmesh.kernel.errors import Invalid, LimitExceeded
from ingest.models import IngestEvent
from query.audit import AuditLog
from query.barrier import Barrier
from query.body import BodyLimits, parse_body
from query.cache import CacheSettings, file_source
from query.errors import (
    ConsistencyTimeout,
    QueryForbidden,
    QueryInvalid,
    QueryTimeout,
    TokenScopeMismatch,
    VisibilityTokenInvalid,
)
from query.incidents import record_damage
from query.models import QueryAudit
from query.pool import Pool, PoolSettings
from query.service import Asker, QueryPlane, QueryPolicy, execute
from storage.columns import TOKEN_COLUMN, TOKEN_FIELD_ID
from storage.keys import data_file_key
from storage.local import LocalStore
from storage.parquet import CONTENT_HASH_ALGORITHM, write_parquet
from tests.factories import make_table, make_tenant
from tests.together import Background

pytestmark = pytest.mark.django_db(transaction=True)

LIMITS = BodyLimits(max_sql_bytes=65_536, max_timeout_ms=300_000, max_consistency_timeout_ms=300_000)
KEY_ID = "abcdefghijkl"


@pytest.fixture(scope="module")
def zygote() -> Iterator[Path]:
    """The socket of a process that forks runners."""
    with tempfile.TemporaryDirectory(prefix="dm") as directory:
        socket = Path(directory, "runners.sock")
        command = [sys.executable, "-m", "query.zygote", "--socket", str(socket), "--exit-with-parent"]
        process = subprocess.Popen(command, cwd=ROOT)
        try:
            yield socket
        finally:
            process.terminate()
            process.wait(10)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> LocalStore:
    return LocalStore(root=tmp_path_factory.mktemp("objects"))


@pytest.fixture(scope="module")
def pool(zygote: Path) -> Iterator[Pool]:
    pool = Pool(PoolSettings(socket=zygote, spares=2, runner_limit=4))
    yield pool
    pool.close()


@pytest.fixture
def plane(pool: Pool, store: LocalStore, tmp_path: Path) -> Iterator[QueryPlane]:
    plane = QueryPlane(
        pool=pool,
        barrier=Barrier(max_waiters=8),
        source=file_source(
            store=store,
            cache=CacheSettings(directory=tmp_path, max_bytes=2**30, keep_seconds=60, on_damage=record_damage),
        ),
        audit=AuditLog(),
        policy=QueryPolicy(),
    )
    yield plane
    plane.barrier.close()
    plane.inflight.close()
    plane.audit.close()


@dataclass(frozen=True, kw_only=True)
class Lake:
    """A tenant with its files; tokens are given out in the order of writing, as ingest does."""

    tenant_id: str
    plane: QueryPlane
    store: LocalStore
    scratch: Path

    def ask(self, sql: str, **members: Any) -> dict[str, Any]:
        """The answer's document."""
        request = parse_body({"sql": sql, **members}, limits=LIMITS)
        asker = Asker(tenant_id=self.tenant_id, key_id=KEY_ID)
        result = execute(request, asker=asker, plane=self.plane, now=clock.now())
        document: dict[str, Any] = json.loads(result.body)
        assert (result.snapshot_id, result.visible_token) == (document["snapshot_id"], document["max_visibility_token"])
        assert result.row_count == len(document["rows"])
        return document

    def rows(self, sql: str, **members: Any) -> list[list[Any]]:
        rows: list[list[Any]] = self.ask(sql, **members)["rows"]
        return rows

    def file(self, table: TableInfo, rows: Sequence[dict[str, Any]], *, first_token: int) -> NewFile:
        """A data file in the store, with a token for each row."""
        schema = arrow_schema(table.schema, keyed=False)
        tokens = pa.array(range(first_token, first_token + len(rows)), pa.int64())
        metadata = {b"PARQUET:field_id": str(TOKEN_FIELD_ID).encode(), b"duckmesh:type": b"int64"}
        batch = pa.Table.from_pylist(list(rows), schema=schema)
        batch = batch.append_column(pa.field(TOKEN_COLUMN, pa.int64(), metadata=metadata), tokens)
        path = self.scratch / "batch.parquet"
        written = write_parquet(batch, path)
        key = data_file_key(
            tenant_id=self.tenant_id, table_name=table.name, at=clock.now(), snapshot_or_epoch=1, seq=first_token
        )
        self.store.put_file(key, path)
        return NewFile(
            table_id=table.table_id,
            path=key,
            row_count=written.row_count,
            size_bytes=written.size_bytes,
            sha256=written.sha256,
            content_algorithm=CONTENT_HASH_ALGORITHM,
            content_hash=written.content_hash,
            schema_version=table.schema.version,
            min_token=first_token,
            max_token=first_token + len(rows) - 1,
            column_stats={
                str(column.field_id): {"min": column.min, "max": column.max, "null_count": column.null_count}
                for column in written.columns
            },
        )

    def publish(self, table: TableInfo, rows: Sequence[dict[str, Any]], *, first_token: int) -> SnapshotInfo:
        """The rows are visible in a new snapshot."""
        added = [self.file(table, rows, first_token=first_token)]
        return self.publish_files(added, watermark=first_token + len(rows) - 1)

    def publish_files(self, added: Sequence[NewFile], *, watermark: int) -> SnapshotInfo:
        return publish_snapshot(
            tenant_id=self.tenant_id, kind=Snapshot.Kind.INGEST, actor="test", added=added, watermark=watermark
        )

    def accept(self, table: TableInfo, *, token: int, state: str = "pending") -> IngestEvent:
        """A write is acknowledged with this token, and no more has become of it."""
        return IngestEvent.objects.create(
            tenant_id=self.tenant_id,
            table_id=table.table_id,
            schema_version=1,
            first_token=token,
            last_token=token,
            record_count=1,
            size_bytes=1,
            state=state,
            error={"code": "TEST"} if state == "failed" else None,
            passed_in=1 if state == "failed" else None,
        )


@pytest.fixture
def lake(plane: QueryPlane, store: LocalStore, tmp_path: Path) -> Lake:
    return Lake(tenant_id=make_tenant(), plane=plane, store=store, scratch=tmp_path)


def numbered(*numbers: int) -> list[dict[str, Any]]:
    return [{"id": f"r{number}", "n": number} for number in numbers]


def test_answer_has_the_contracts_members(lake: Lake) -> None:
    table = make_table(tenant_id=lake.tenant_id)
    snapshot = lake.publish(table, numbered(2**53 + 1, 2), first_token=1)
    document = lake.ask("SELECT id, n FROM events ORDER BY n")
    stats = document.pop("stats")
    assert document == {
        "columns": ["id", "n"],
        "column_types": ["VARCHAR", "BIGINT"],
        "rows": [["r2", 2], ["r9007199254740993", 2**53 + 1]],
        "snapshot_id": snapshot.snapshot_id,
        "snapshot_time": rfc3339(snapshot.snapshot_time),
        "max_visibility_token": 2,
        "truncated": False,
    }
    assert stats["scanned_files"] == 1
    assert stats["scanned_bytes"] == stats["cache_hit_bytes"] > 0
    assert stats["pruned_files"] == 0
    assert stats["barrier_ms"] == 0
    assert 0 <= stats["queue_ms"] <= stats["duration_ms"]


def test_every_type_of_a_table_is_read_back_as_it_was_written(lake: Lake) -> None:
    types = ["bool", "int32", "int64", "float32", "float64", "decimal(38,2)", "string", "binary", "date", "timestamp"]
    types += ["json", "uuid", "list<int64>"]
    columns = [ParsedColumn(name=f"c{number}", type=type_) for number, type_ in enumerate(types)]
    table = make_table(tenant_id=lake.tenant_id, columns=columns)
    empty = lake.ask("SELECT * FROM events")
    assert empty["rows"] == []
    schema = arrow_schema(table.schema, keyed=False)
    values = [True, 1, 2**63 - 1, 0.1, 1e300, "123.40", "é\0", b"\xff", "2013-01-01", "2013-01-01T00:00:00.5"]
    values += ['{"a":1}', "ca6e0ed2-6e6b-4d0e-a8a2-36ddfdd1ffb8", [1, None]]
    casts = {field.name: pa.array([value]) for field, value in zip(schema, values, strict=True)}
    row = {field.name: casts[field.name].cast(field.type)[0].as_py() for field in schema}
    lake.publish(table, [row, dict.fromkeys(row)], first_token=1)
    document = lake.ask("SELECT * FROM events")
    assert document["column_types"] == empty["column_types"]
    assert document["column_types"] == [
        *("BOOLEAN", "INTEGER", "BIGINT", "FLOAT", "DOUBLE", "DECIMAL(38,2)", "VARCHAR", "BLOB", "DATE", "TIMESTAMP"),
        *("JSON", "UUID", "BIGINT[]"),
    ]
    assert document["rows"] == [
        [
            *(True, 1, 2**63 - 1, 0.1, 1e300, "123.40", "é\0", "/w==", "2013-01-01", "2013-01-01T00:00:00.500000Z"),
            *('{"a":1}', "ca6e0ed2-6e6b-4d0e-a8a2-36ddfdd1ffb8", [1, None]),
        ],
        [None] * 13,
    ]


def test_statement_without_tables_needs_none(lake: Lake) -> None:
    document = lake.ask("SELECT 42 AS answer")
    assert (document["rows"], document["snapshot_id"]) == ([[42]], 0)


def test_parameters_are_values_by_place_or_name(lake: Lake) -> None:
    lake.publish(make_table(tenant_id=lake.tenant_id), numbered(1, 2, 3), first_token=1)
    assert lake.rows("SELECT n FROM events WHERE n > ? AND id <> ?", params=[1, "r3"]) == [[2]]
    assert lake.rows("SELECT n FROM events WHERE n = $n", params={"n": 3}) == [[3]]
    assert lake.rows("SELECT ?::VARCHAR", params=["'; DROP TABLE events; --"]) == [["'; DROP TABLE events; --"]]
    with pytest.raises(QueryInvalid):
        lake.ask("SELECT ?", params=[])


def test_row_limit_says_whether_there_was_more(lake: Lake) -> None:
    lake.publish(make_table(tenant_id=lake.tenant_id), numbered(*range(5)), first_token=1)
    for limit, truncated in [(4, True), (5, False), (6, False)]:
        document = lake.ask("SELECT n FROM events", row_limit=limit)
        assert (len(document["rows"]), document["truncated"]) == (min(limit, 5), truncated)
    assert len(lake.rows("SELECT * FROM range(20_000)")) == 10_000


def test_names_of_tables_compare_without_case(lake: Lake) -> None:
    lake.publish(make_table(tenant_id=lake.tenant_id, name="Select"), numbered(1), first_token=1)
    assert lake.rows('SELECT N FROM "SELECT"') == [[1]]


def test_table_named_like_a_view_of_the_system_is_read_where_it_exists_and_forbidden_elsewhere(lake: Lake) -> None:
    table = make_table(tenant_id=lake.tenant_id, name="PG_Stats")
    lake.publish(table, numbered(1), first_token=1)
    assert lake.rows("WITH x AS (FROM pg_stats) SELECT n FROM x") == [[1]]
    drop_table(tenant_id=lake.tenant_id, name="pg_stats", actor="test")
    for name in ("pg_stats", "duckdb_settings", "sqlite_master"):
        with pytest.raises(QueryForbidden, match="no table of this name"):
            lake.ask(f"SELECT * FROM {name}")
    assert lake.rows("SELECT n FROM pg_stats", snapshot_id=lake.ask("SELECT 1")["snapshot_id"] - 1) == [[1]]


def test_dropped_foreign_and_unknown_tables_do_not_exist(lake: Lake) -> None:
    table = make_table(tenant_id=lake.tenant_id, name="mine")
    snapshot = lake.publish(table, numbered(1), first_token=1)
    make_table(tenant_id=make_tenant(), name="theirs")
    drop_table(tenant_id=lake.tenant_id, name="mine", actor="test")
    messages = set()
    for name in ("mine", "theirs", "nobodys"):
        with pytest.raises(TableNotFound) as refused:
            lake.ask(f"SELECT * FROM {name}")
        messages.add(refused.value.message.replace(name, "…"))
        assert refused.value.context == {"table_name": name}
    assert len(messages) == 1, "another tenant's table answers exactly as one that does not exist"
    assert lake.rows("SELECT n FROM mine", snapshot_id=snapshot.snapshot_id) == [[1]]


def test_name_created_anew_shares_nothing_with_the_old_table(lake: Lake) -> None:
    old = lake.publish(make_table(tenant_id=lake.tenant_id), numbered(1), first_token=1)
    drop_table(tenant_id=lake.tenant_id, name="events", actor="test")
    anew = make_table(tenant_id=lake.tenant_id, columns=[ParsedColumn(name="x", type="bool")])
    assert lake.ask("SELECT * FROM events")["columns"] == ["x"]
    lake.publish(anew, [{"x": True}], first_token=2)
    assert lake.rows("SELECT * FROM events") == [[True]]
    assert lake.rows("SELECT * FROM events", snapshot_id=old.snapshot_id) == [["r1", 1]]


def test_time_travel_by_id_and_by_time(lake: Lake) -> None:
    table = make_table(tenant_id=lake.tenant_id)
    snapshots = [lake.publish(table, numbered(number), first_token=number) for number in (1, 2, 3)]
    sql = "SELECT count(*) FROM events"
    for count, snapshot in enumerate(snapshots, start=1):
        assert lake.rows(sql, snapshot_id=snapshot.snapshot_id) == [[count]]
        document = lake.ask(sql, snapshot_time=rfc3339(snapshot.snapshot_time))
        assert (document["rows"], document["snapshot_id"]) == ([[count]], snapshot.snapshot_id)
        assert document["max_visibility_token"] == count
        just_before = rfc3339(snapshot.snapshot_time - timedelta(microseconds=1))
        assert lake.rows(sql, snapshot_time=just_before) == [[count - 1]]


def test_snapshots_that_cannot_be_read_say_why(lake: Lake) -> None:
    table = make_table(tenant_id=lake.tenant_id)
    old = lake.publish(table, numbered(1), first_token=1)
    lake.publish(table, numbered(2), first_token=2)
    expire_snapshots(tenant_id=lake.tenant_id, snapshot_ids=[old.snapshot_id])
    created = Tenant.objects.get(tenant_id=lake.tenant_id).created_at
    sql = "SELECT * FROM events"
    with pytest.raises(SnapshotExpired):
        lake.ask(sql, snapshot_id=old.snapshot_id)
    with pytest.raises(SnapshotExpired):
        lake.ask(sql, snapshot_time=rfc3339(old.snapshot_time))
    with pytest.raises(SnapshotNotFound):
        lake.ask(sql, snapshot_id=99)
    with pytest.raises(SnapshotNotFound):
        lake.ask(sql, snapshot_time=rfc3339(created - timedelta(seconds=1)))
    with pytest.raises(Invalid) as future:
        lake.ask(sql, snapshot_time=rfc3339(clock.now() + timedelta(hours=1)))
    assert future.value.code == "INVALID_REQUEST"


def test_query_reads_all_its_tables_at_one_snapshot(lake: Lake) -> None:
    tables = [make_table(tenant_id=lake.tenant_id, name=name) for name in ("a", "b")]
    stop = time.monotonic() + 2

    def publish_pairs() -> None:
        token = 1
        while time.monotonic() < stop:
            files = [lake.file(table, numbered(token), first_token=token + i) for i, table in enumerate(tables)]
            lake.publish_files(files, watermark=token + 1)
            token += 2

    publishing = Background(publish_pairs)
    seen = set()
    while not publishing.done:
        document = lake.ask("SELECT (SELECT count(*) FROM a), (SELECT count(*) FROM b)")
        a, b = document["rows"][0]
        assert a == b == document["max_visibility_token"] / 2
        seen.add(a)
    publishing.result()
    assert len(seen) > 3


def test_token_that_is_visible_costs_the_catalog_one_statement(lake: Lake) -> None:
    lake.publish(make_table(tenant_id=lake.tenant_id), numbered(1), first_token=1)
    lake.ask("SELECT n FROM events")  # the statement is prepared in this connection
    with CaptureQueriesContext(connection) as queries:
        assert lake.rows("SELECT n FROM events", min_visibility_token=1) == [[1]]
    assert len(queries) == 1
    with CaptureQueriesContext(connection) as queries:
        lake.ask("SELECT n FROM events JOIN events e USING (n)")
    assert len(queries) == 1


def test_query_waits_for_its_token(lake: Lake) -> None:
    table = make_table(tenant_id=lake.tenant_id)
    lake.accept(table, token=1)

    def publish() -> None:
        time.sleep(0.2)
        lake.publish(table, numbered(1), first_token=1)

    publishing = Background(publish)
    document = lake.ask("SELECT n FROM events", min_visibility_token=1)
    publishing.result()
    assert document["rows"] == [[1]]
    assert document["max_visibility_token"] == 1
    assert 100 < document["stats"]["barrier_ms"] <= document["stats"]["duration_ms"]


def test_wait_for_the_token_takes_nothing_from_the_time_of_the_statement(lake: Lake) -> None:
    table = make_table(tenant_id=lake.tenant_id)
    lake.accept(table, token=1)
    lake.ask("SELECT n FROM events")  # a runner is warm

    def publish() -> None:
        time.sleep(1)
        lake.publish(table, numbered(1), first_token=1)

    publishing = Background(publish)
    assert lake.rows("SELECT n FROM events", min_visibility_token=1, timeout_ms=800) == [[1]]
    publishing.result()


def test_wait_that_runs_out_tells_the_latest_watermark(lake: Lake) -> None:
    table = make_table(tenant_id=lake.tenant_id)
    lake.publish(table, numbered(1), first_token=1)
    lake.accept(table, token=2)
    with pytest.raises(ConsistencyTimeout) as timed_out:
        lake.ask("SELECT n FROM events", min_visibility_token=2, consistency_timeout_ms=100)
    assert timed_out.value.context == {"min_visibility_token": 2, "latest_visibility_token": 1}


def test_token_that_was_never_issued_is_refused_at_once(lake: Lake) -> None:
    table = make_table(tenant_id=lake.tenant_id)
    lake.accept(table, token=5)
    started = time.monotonic()
    for members in ({}, {"snapshot_id": 0}):
        with pytest.raises(VisibilityTokenInvalid) as refused:
            lake.ask("SELECT 1", min_visibility_token=6, consistency_timeout_ms=60_000, **members)
        assert refused.value.context == {"min_visibility_token": 6, "latest_issued_token": 5}
    assert time.monotonic() - started < 5


def test_token_above_the_asked_snapshot_is_out_of_its_scope(lake: Lake) -> None:
    table = make_table(tenant_id=lake.tenant_id)
    first = lake.publish(table, numbered(1), first_token=1)
    lake.publish(table, numbered(2), first_token=2)
    lake.accept(table, token=2)
    sql = "SELECT count(*) FROM events"
    for selector in ({"snapshot_id": first.snapshot_id}, {"snapshot_time": rfc3339(first.snapshot_time)}):
        assert lake.rows(sql, min_visibility_token=1, **selector) == [[1]]
        with pytest.raises(TokenScopeMismatch) as refused:
            lake.ask(sql, min_visibility_token=2, **selector)
        assert refused.value.context["snapshot_visibility_token"] == 1


def test_failed_write_is_a_hole_only_for_who_asks_for_it(lake: Lake) -> None:
    table, other = (make_table(tenant_id=lake.tenant_id, name=name) for name in ("events", "other"))
    lake.publish(table, numbered(1), first_token=1)
    failed = lake.accept(table, token=2, state="failed")
    lake.publish(table, numbered(3), first_token=3)
    sql = "SELECT count(*) FROM events"
    for token in (2, 3):
        with pytest.raises(IngestFailed) as refused:
            lake.ask(sql, min_visibility_token=token)
        assert refused.value.context == {"failed_event_id": failed.event_id}
        assert refused.value.code == "INGEST_FAILED"
    assert lake.rows(sql) == [[2]]
    assert lake.rows(sql, min_visibility_token=1) == [[2]]
    assert lake.rows("SELECT count(*) FROM other", min_visibility_token=3) == [[0]]
    assert other.table_id != table.table_id
    IngestEvent.objects.filter(event_id=failed.event_id).update(state="discarded", error=None)
    assert lake.rows(sql, min_visibility_token=3) == [[2]]


def test_failed_write_is_told_without_waiting_for_later_ones(lake: Lake) -> None:
    table = make_table(tenant_id=lake.tenant_id)
    lake.accept(table, token=1, state="failed")
    lake.accept(table, token=2)
    started = time.monotonic()
    with pytest.raises(IngestFailed):
        lake.ask("SELECT * FROM events", min_visibility_token=2, consistency_timeout_ms=60_000)
    assert time.monotonic() - started < 5


def test_statement_that_may_not_run_waits_for_nothing(lake: Lake) -> None:
    lake.accept(make_table(tenant_id=lake.tenant_id), token=1)
    started = time.monotonic()
    for sql in ("DROP TABLE events", "SELECT * FROM read_text('/etc/passwd')", "SELECT 1; SELECT 2", "SHOW TABLES"):
        with pytest.raises(QueryForbidden):
            lake.ask(sql, min_visibility_token=1, consistency_timeout_ms=60_000)
    with pytest.raises(QueryInvalid):
        lake.ask("SELEC 1", min_visibility_token=1)
    assert time.monotonic() - started < 5


def test_statement_is_stopped_at_its_deadline(lake: Lake) -> None:
    lake.ask("SELECT 1")
    started = time.monotonic()
    with pytest.raises(QueryTimeout):
        lake.ask("SELECT sum(a.range * b.range) FROM range(10_000_000) a, range(10_000_000) b", timeout_ms=300)
    assert time.monotonic() - started < 2
    assert lake.rows("SELECT 1") == [[1]]


def test_result_beyond_its_bytes_is_refused(lake: Lake) -> None:
    with pytest.raises(LimitExceeded) as refused:
        lake.ask("SELECT repeat('x', 1_000_000) FROM range(1_000)")
    assert refused.value.code == "QUERY_RESOURCES_EXCEEDED"


def test_every_query_leaves_an_audit_row_without_its_literals(lake: Lake) -> None:
    lake.publish(make_table(tenant_id=lake.tenant_id), numbered(1), first_token=1)
    lake.ask("SELECT n, 'secret' FROM events")
    with pytest.raises(TableNotFound):
        lake.ask("SELECT * FROM missing")
    deadline = time.monotonic() + 5
    while QueryAudit.objects.filter(tenant_id=lake.tenant_id).count() < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    good, bad = QueryAudit.objects.filter(tenant_id=lake.tenant_id).order_by("at")
    assert (good.outcome, good.row_count, good.key_id) == ("ok", 1, KEY_ID)
    assert good.snapshot_id == resolve(tenant_id=lake.tenant_id).snapshot_id
    assert good.size_bytes > 50
    assert good.duration_ms > 0
    assert (bad.outcome, bad.row_count, bad.snapshot_id) == ("TABLE_NOT_FOUND", 0, None)
    assert "secret" not in json.dumps(QueryAudit.objects.filter(pk=good.pk).values().get(), default=str)


def test_day_out_of_a_year_of_daily_files_opens_only_that_days(lake: Lake) -> None:
    columns = [ParsedColumn(name="seen", type="timestamp"), ParsedColumn(name="n", type="int64")]
    table = make_table(tenant_id=lake.tenant_id, columns=columns)
    first = datetime.fromisoformat("2013-01-01")
    days = [[{"seen": first + timedelta(days=day, hours=hour), "n": day} for hour in (0, 23)] for day in range(365)]
    files = [lake.file(table, rows, first_token=2 * day + 1) for day, rows in enumerate(days)]
    lake.publish_files(files, watermark=730)
    (day,) = (file for file in files if file.min_token == 2 * 200 + 1)
    document = lake.ask("SELECT n FROM events WHERE seen >= ? AND seen < ?", params=["2013-07-20", "2013-07-21"])
    assert document["rows"] == [[200], [200]]
    stats = document["stats"]
    assert (stats["scanned_files"], stats["pruned_files"], stats["scanned_bytes"]) == (1, 364, day.size_bytes)
    assert lake.store.local_root is not None
    for file in files:
        if file is not day:  # the others are not even looked for
            (lake.store.local_root / file.path).unlink()
    assert lake.rows("SELECT count(*) FROM events WHERE date '2013-07-20' <= seen AND seen < '2013-07-21'") == [[2]]
    assert lake.ask("SELECT n FROM events WHERE seen < '2013-01-01'")["rows"] == []


def test_damaged_copy_of_a_file_is_an_incident(lake: Lake) -> None:
    table = make_table(tenant_id=lake.tenant_id)
    file = lake.file(table, numbered(1), first_token=1)
    read = ReadFile(
        path=file.path,
        row_count=file.row_count,
        size_bytes=file.size_bytes,
        sha256=file.sha256,
        schema_version=file.schema_version,
    )
    record_damage(lake.tenant_id, read, "checksum")
    incident = IncidentAudit.objects.get(tenant_id=lake.tenant_id)
    assert (incident.kind, incident.severity) == ("cached_file_damaged", "warning")
    assert incident.context == {"path": file.path, "reason": "checksum", "size_bytes": file.size_bytes}
