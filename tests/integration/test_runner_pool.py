"""The pool against a real zygote: answers, limits, ends of runners, and what is left behind (nothing)."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path

import duckdb
import psutil
import pytest

from query.errors import (
    PoolBusy,
    QueryForbidden,
    QueryInvalid,
    QueryResourcesExceeded,
    QueryTimeout,
    RunnersUnavailable,
)
from query.pool import Pool
from query.request import TableView, ViewColumn
from storage.reading import Part
from tests.runners import ROOT, Lake, Zygote, ask, make_lake, make_pool, rows, running_zygote, start_zygote, write

ENDLESS = "SELECT count(*) FROM range(1000000000000) a"


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    return make_lake(tmp_path_factory.mktemp("a lake's files"))


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    with running_zygote() as zygote:
        yield zygote


@pytest.fixture
def pool(zygote: Zygote) -> Iterator[Pool]:
    pool = make_pool(zygote)
    yield pool
    pool.close()


def test_a_statement_reads_its_tenants_files(pool: Pool, lake: Lake) -> None:
    answer = ask(pool, lake, "SELECT usr, count(*) AS n FROM big GROUP BY usr ORDER BY usr LIMIT 2")
    assert rows(answer) == [{"usr": "u0", "n": 200}, {"usr": "u1", "n": 200}]
    assert answer.column_types == ("VARCHAR", "BIGINT")
    assert (answer.row_count, answer.truncated) == (2, False)
    assert answer.engine_ms > 0


def test_parameters_keep_their_values(pool: Pool, lake: Lake) -> None:
    values = [2**53 + 1, -(2**63), 2**100, "o'x\0ü", True, None, 0.1, [1, 2], []]
    answer = ask(pool, lake, "SELECT " + ", ".join(f"? AS c{n}" for n in range(len(values))), values)
    assert list(rows(answer)[0].values()) == values
    assert rows(ask(pool, lake, "SELECT $a + $b AS s", {"a": 1, "b": 2})) == [{"s": 3}]
    for sql, params in (("SELECT ?", None), ("SELECT ?", [1, 2]), ("SELECT $a", {"b": 1}), ("SELECT ?", [{"a": 1}])):
        with pytest.raises(QueryInvalid):
            ask(pool, lake, sql, params)


def test_wide_integers_and_decimals_are_exact(pool: Pool, lake: Lake) -> None:
    sql = """SELECT sum(9223372036854775807::BIGINT) AS s, 12345678901234567890123456789012345678::HUGEINT AS h,
             340282366920938463463374607431768211455::UHUGEINT AS u, 0.10::DECIMAL(38, 20) AS d, '101'::BIT AS b,
             '10:00:00+02'::TIMETZ AS t FROM range(2); -- the end"""
    answer = ask(pool, lake, sql)
    row = rows(answer)[0]
    assert answer.column_types == ("HUGEINT", "HUGEINT", "UHUGEINT", "DECIMAL(38,20)", "BIT", "TIME WITH TIME ZONE")
    assert row["s"] == Decimal(2 * (2**63 - 1))
    assert row["h"] == Decimal("12345678901234567890123456789012345678")
    assert row["u"] == str(2**128 - 1)
    assert row["d"] == Decimal("0.10000000000000000000")
    assert (row["b"], row["t"]) == ("101", "10:00:00+02")
    widest = ask(pool, lake, "SELECT 170141183460469231731687303715884105727::HUGEINT AS a, 1 AS a")
    assert widest.column_types == ("HUGEINT", "INTEGER")
    assert widest.arrow
    alone = ask(pool, lake, "SELECT [(-170141183460469231731687303715884105727)::HUGEINT] AS h")
    assert rows(alone) == [{"h": "[-170141183460469231731687303715884105727]"}]


def test_rows_stop_at_the_limit(pool: Pool, lake: Lake) -> None:
    for limit, count, truncated in ((9, 9, True), (10, 10, False), (11, 10, False), (0, 0, True), (None, 10, False)):
        answer = ask(pool, lake, "SELECT * FROM events", row_limit=limit)
        assert (len(rows(answer)), answer.row_count, answer.truncated) == (count, count, truncated)


def test_a_result_that_is_too_large_is_refused(pool: Pool, lake: Lake) -> None:
    with pytest.raises(QueryResourcesExceeded, match="100000 bytes"):
        ask(pool, lake, "SELECT * FROM big", row_limit=None, max_bytes=100_000)
    assert rows(ask(pool, lake, "SELECT 1 AS one")) == [{"one": 1}]


def test_a_large_result_arrives_whole(pool: Pool, lake: Lake) -> None:
    found = rows(ask(pool, lake, "SELECT * FROM big", row_limit=None))
    assert len(found) == 200_000
    assert sum(int(str(row["id"])) for row in found) == 199_999 * 100_000


def test_a_table_without_files_is_empty_but_typed(pool: Pool, lake: Lake) -> None:
    columns = (
        ViewColumn(name="a", duckdb_type="BIGINT", field_id=1),
        ViewColumn(name="select", duckdb_type="DECIMAL(10,2)[]", field_id=2),
    )
    empty = TableView(name="empty", columns=columns)
    answer = ask(pool, lake, "SELECT * FROM Empty", views=(empty,))
    assert (rows(answer), answer.column_types) == ([], ("BIGINT", "DECIMAL(10,2)[]"))


def test_a_keyed_table_shows_the_last_state_of_each_key(pool: Pool, lake: Lake) -> None:
    path = lake.directory("a") / "keyed.parquet"
    # Ten rows arrive, then again with other text, and of those the even ones are deletes.
    rounds = "SELECT i % 10 AS id, 'round ' || (i // 10) AS s FROM range(20) t(i)"
    write(path, rounds, ops="CASE WHEN s = 'round 1' AND id % 2 = 0 THEN 1 ELSE 0 END")
    keyed = lake.view("keyed", "id BIGINT, s VARCHAR", key=("id",))
    found = rows(ask(pool, lake, "SELECT * FROM keyed ORDER BY id", views=(keyed,)))
    assert found == [{"id": number, "s": "round 1"} for number in (1, 3, 5, 7, 9)]


def test_errors_name_the_statement_and_nothing_of_ours(pool: Pool, lake: Lake) -> None:
    cases = [
        "SELECT x FROM events",
        "SELECT s::INT FROM events",
        "SELECT 9223372036854775807 + 1",
        "SELECT nope.x FROM events",
    ]
    for sql in cases:
        with pytest.raises(QueryInvalid) as refused:
            ask(pool, lake, sql)
        assert str(lake.root) not in refused.value.message
        assert "read_parquet" not in refused.value.message


def test_a_missing_file_is_not_fewer_rows(pool: Pool, lake: Lake) -> None:
    view = lake.view("missing", "id BIGINT")
    with pytest.raises(RunnersUnavailable) as failed:
        ask(pool, lake, "SELECT * FROM missing", views=(view,))
    assert failed.value.retryable
    assert str(lake.root) not in failed.value.message
    assert rows(ask(pool, lake, "SELECT 1 AS one")) == [{"one": 1}]


def test_files_of_another_tenant_cannot_be_shown(pool: Pool, lake: Lake) -> None:
    foreign = lake.view("secret", "id BIGINT, s VARCHAR", tenant="b")
    with pytest.raises(RunnersUnavailable):
        ask(pool, lake, "SELECT * FROM secret", views=(foreign,))
    assert len(rows(ask(pool, lake, "SELECT * FROM secret", tenant="b", views=(foreign,)))) == 10


def test_nothing_of_one_statement_survives_into_the_next(pool: Pool, lake: Lake) -> None:
    assert rows(ask(pool, lake, "SELECT count(*) AS n FROM events")) == [{"n": 10}]
    with pytest.raises(QueryForbidden, match="no table events"):
        ask(pool, lake, "SELECT count(*) AS n FROM events", views=())
    other = TableView(
        name="events", columns=(ViewColumn(name="v", duckdb_type="DOUBLE", field_id=3),), folded=lake.views[1].folded
    )
    assert rows(ask(pool, lake, "SELECT count(v) AS n FROM events", views=(other,))) == [{"n": 200_000}]
    for sql in ("SET VARIABLE x = 1", "CREATE TEMP TABLE t AS SELECT 1", "SET TimeZone = 'Asia/Tokyo'"):
        with pytest.raises(QueryForbidden):
            ask(pool, lake, sql)


def test_a_view_of_the_system_is_never_reached_and_a_table_of_its_name_is(pool: Pool, lake: Lake) -> None:
    with duckdb.connect() as connection:
        found = connection.execute("SELECT DISTINCT view_name FROM duckdb_views() WHERE internal").fetchall()
    names = sorted(str(row[0]) for row in found)
    assert {"pg_class", "duckdb_views", "sqlite_master", "pragma_database_list", "tables"} <= set(names)
    mine = (ViewColumn(name="mine", duckdb_type="BIGINT", field_id=1),)
    events = Part(files=(str(lake.directory("a") / "events.parquet"),))
    for name in names:
        table = TableView(name=name.upper(), columns=mine, folded=(events,))
        for sql in (
            f"FROM {name}",
            f"WITH x AS (FROM {name}) FROM x",
            f"SELECT (SELECT max(mine) FROM {name}) AS mine",
        ):
            last = rows(ask(pool, lake, sql, views=(table,)))[-1]
            assert last == {"mine": 9}, sql
            # The same runner still has the view of the statement before.
            with pytest.raises(QueryForbidden):
                ask(pool, lake, sql, views=())


def test_the_deadline_kills_and_the_pool_goes_on(pool: Pool, lake: Lake) -> None:
    for _ in range(5):
        started = time.monotonic()
        with pytest.raises(QueryTimeout):
            ask(pool, lake, ENDLESS, seconds=0.3)
        assert time.monotonic() - started < 0.55
        assert rows(ask(pool, lake, "SELECT 1 AS one")) == [{"one": 1}]


def test_memory_beyond_the_limit_is_refused(pool: Pool, lake: Lake) -> None:
    for sql in ("SELECT length(repeat(repeat('x', 60000), 60000))", "SELECT list(i) FROM range(300000000) t(i)"):
        with pytest.raises(QueryResourcesExceeded):
            ask(pool, lake, sql)
    assert rows(ask(pool, lake, "SELECT 1 AS one")) == [{"one": 1}]


def test_who_waits_too_long_is_told_that_all_are_busy(pool: Pool, lake: Lake) -> None:
    threads = [threading.Thread(target=_until_timeout, args=(pool, lake, 1.5)) for _ in range(2)]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    with pytest.raises(PoolBusy) as busy:
        ask(pool, lake, "SELECT 1", seconds=0.3)
    assert busy.value.retry_after
    answer = ask(pool, lake, "SELECT 1 AS one", seconds=10)
    for thread in threads:
        thread.join()
    assert answer.queue_ms > 0


def test_tenants_share_few_runners(pool: Pool, lake: Lake, zygote: Zygote) -> None:
    for number in range(12):
        sql = f"SELECT {number} AS n"
        assert rows(ask(pool, lake, sql, tenant=f"tenant-{number % 6}", views=())) == [{"n": number}]
    assert len(_runners(zygote)) <= 4 + 2 + 1


def test_nothing_accumulates_over_many_queries(zygote: Zygote, lake: Lake) -> None:
    pool = make_pool(zygote, max_queries=20)
    try:
        ask(pool, lake, "SELECT 1")
        files = _open_files()
        for number in range(300):
            assert rows(ask(pool, lake, "SELECT count(*) + ? AS n FROM events", [number])) == [{"n": 10 + number}]
        assert _open_files() <= files + 4
        _eventually(lambda: len(_runners(zygote)) <= 4)
        assert all(runner.status() != psutil.STATUS_ZOMBIE for runner in _runners(zygote))
    finally:
        pool.close()
    _eventually(lambda: _runners(zygote) == [])


OTHER_PROCESS = """
import sys, time
from pathlib import Path
from query.pool import Pool, PoolSettings
from query.request import RunRequest
pool = Pool(PoolSettings(socket=Path(sys.argv[1])))
with pool.session(tenant_id="a", tenant_dir=Path(sys.argv[2]), deadline=time.monotonic() + 20) as session:
    print(session.run(RunRequest(sql="SELECT 1")).row_count, flush=True)
    session.run(RunRequest(sql=sys.argv[3]))
"""


def test_a_process_that_dies_takes_its_runners_along(zygote: Zygote, lake: Lake) -> None:
    pool = make_pool(zygote)
    arguments = [str(zygote.socket), str(lake.directory("a")), ENDLESS]
    other = subprocess.Popen([sys.executable, "-c", OTHER_PROCESS, *arguments], cwd=ROOT, stdout=subprocess.PIPE)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == b"1\n"
        assert rows(ask(pool, lake, "SELECT 1 AS one")) == [{"one": 1}]
        assert len(_runners(zygote)) > 3
        other.kill()
        _eventually(lambda: len(_runners(zygote)) <= 3)
        assert rows(ask(pool, lake, "SELECT 2 AS two")) == [{"two": 2}]
    finally:
        other.kill()
        other.communicate()
        pool.close()


def test_the_zygote_may_die_and_come_back(lake: Lake) -> None:
    with running_zygote() as zygote:
        pool = make_pool(zygote)
        try:
            ask(pool, lake, "SELECT 1")
            runners = _runners(zygote)
            zygote.process.send_signal(signal.SIGKILL)
            zygote.process.wait()
            _eventually(lambda: not any(_alive(runner) for runner in runners))
            with pytest.raises(RunnersUnavailable):
                ask(pool, lake, "SELECT 1", seconds=0.5)
            again = _restarted(zygote)
            assert rows(ask(pool, lake, "SELECT 1 AS one")) == [{"one": 1}]
            again.process.kill()
            again.process.wait()
        finally:
            pool.close()


def test_a_second_zygote_does_not_take_the_socket_away(zygote: Zygote) -> None:
    with pytest.raises(AssertionError, match="did not start"):
        late = start_zygote(zygote.socket.with_name("other.sock"), "--socket", str(zygote.socket))
        late.process.kill()
    assert zygote.process.poll() is None


def test_a_runner_that_dies_does_not_harm_the_others(pool: Pool, lake: Lake, zygote: Zygote) -> None:
    ask(pool, lake, "SELECT 1")
    thread = threading.Thread(target=_until_timeout, args=(pool, lake, 5, (QueryResourcesExceeded,)))
    thread.start()
    time.sleep(0.5)
    victims = [runner for runner in _runners(zygote) if runner.status() != psutil.STATUS_ZOMBIE]
    for runner in victims:
        runner.kill()  # as the kernel does when memory is short
    _eventually(lambda: not any(_alive(runner) for runner in victims))
    thread.join(3)
    assert not thread.is_alive()
    assert rows(ask(pool, lake, "SELECT 1 AS one")) == [{"one": 1}]


def test_what_is_spilled_is_bounded_and_gone_afterwards(tmp_path: Path, lake: Lake) -> None:
    spill = tmp_path / "spill"
    options = ("--memory-bytes", str(64 * 2**20), "--spill-dir", str(spill), "--spill-bytes", str(192 * 2**20))
    with running_zygote(*options) as zygote:
        pool = make_pool(zygote)
        try:
            sql = "SELECT max(h) AS h FROM (SELECT md5(i::VARCHAR) AS h FROM range(2000000) t(i) ORDER BY h OFFSET 5)"
            assert len(str(rows(ask(pool, lake, sql))[0]["h"])) == 32
            wide = "SELECT i FROM (SELECT i, repeat(md5(i::VARCHAR), 20) AS h FROM range(3000000) t(i)) ORDER BY h"
            with pytest.raises((QueryResourcesExceeded, QueryTimeout)):
                ask(pool, lake, wide, seconds=3)
        finally:
            pool.close()
        _eventually(lambda: list(spill.iterdir()) == [])


def _restarted(zygote: Zygote) -> Zygote:
    zygote.socket.unlink()
    return start_zygote(zygote.socket)


def _until_timeout(
    pool: Pool, lake: Lake, seconds: float, expected: tuple[type[Exception], ...] = (QueryTimeout,)
) -> None:
    with pytest.raises(expected):
        ask(pool, lake, ENDLESS, seconds=seconds)


def _runners(zygote: Zygote) -> list[psutil.Process]:
    return psutil.Process(zygote.process.pid).children()


def _alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def _open_files() -> int:
    return psutil.Process().num_fds()


def _eventually(condition: Callable[[], bool], seconds: float = 5) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not come true in time"
        time.sleep(0.02)
