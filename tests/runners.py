"""A real zygote and a small lake of two tenants, for tests of sealed execution."""

import contextlib
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa
from pyarrow import ipc

from query.pool import Pool, PoolSettings
from query.request import Params, RunAnswer, RunRequest, TableView, ViewColumn
from storage.reading import Part

CANARY = "CANARY_9f31"
ROOT = Path(__file__).resolve().parents[1]
ATTACKS = ROOT / "tests" / "data" / "sql_attacks.txt"
SYSTEM_FIELDS = "_duckmesh_token: 2147483000, _duckmesh_op: 2147483001"


@dataclass(frozen=True, kw_only=True)
class Zygote:
    """A running `python -m query.zygote`."""

    process: subprocess.Popen[bytes]
    socket: Path


def start_zygote(socket: Path, *options: str) -> Zygote:
    """A zygote that answers on `socket`."""
    command = [sys.executable, "-m", "query.zygote", "--socket", str(socket), "--exit-with-parent", *options]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 30
    while not socket.exists():
        assert process.poll() is None, "the zygote did not start"
        assert time.monotonic() < until, "the zygote does not listen"
        time.sleep(0.02)
    return Zygote(process=process, socket=socket)


@contextlib.contextmanager
def running_zygote(*options: str) -> Iterator[Zygote]:
    """A zygote on a socket with a short name, until the end of the block."""
    with tempfile.TemporaryDirectory(prefix="dm-", dir="/tmp") as directory:
        zygote = start_zygote(Path(directory) / "z.sock", *options)
        try:
            yield zygote
        finally:
            zygote.process.kill()
            zygote.process.wait()


@dataclass(frozen=True, kw_only=True)
class Lake:
    """Tenant a has events (10 rows) and big (200,000); tenant b has a secret; the host has another."""

    root: Path

    def directory(self, tenant: str) -> Path:
        return self.root / "tenants" / tenant

    def view(self, name: str, columns: str, *, tenant: str = "a", key: tuple[str, ...] = ()) -> TableView:
        """`columns` as `id BIGINT, s VARCHAR`; their field ids count from 1."""
        pairs = [column.split() for column in columns.split(", ")]
        part = Part(files=(str(self.directory(tenant) / f"{name}.parquet"),))
        return TableView(
            name=name,
            columns=tuple(
                ViewColumn(name=label, duckdb_type=kind, field_id=number)
                for number, (label, kind) in enumerate(pairs, start=1)
            ),
            folded=() if key else (part,),
            fresh=(part,) if key else (),
            key=key,
        )

    @property
    def views(self) -> tuple[TableView, ...]:
        return (
            self.view("events", "id BIGINT, s VARCHAR"),
            self.view("big", "id BIGINT, usr VARCHAR, v DOUBLE, h VARCHAR"),
        )


def make_lake(root: Path) -> Lake:
    """The files of both tenants below `root`."""
    lake = Lake(root=root)
    for tenant in ("a", "b"):
        lake.directory(tenant).mkdir(parents=True)
    (root / "secret.txt").write_text(f"{CANARY}\n", encoding="ascii")
    write(lake.directory("a") / "events.parquet", "SELECT i AS id, 'A-row' AS s FROM range(10) t(i)")
    big = "SELECT i AS id, 'u' || (i % 1000) AS usr, i * 1.5::DOUBLE AS v, md5(i::VARCHAR) AS h FROM range(200000) t(i)"
    write(lake.directory("a") / "big.parquet", big)
    write(lake.directory("b") / "secret.parquet", f"SELECT i AS id, '{CANARY}' AS s FROM range(10) t(i)")
    return lake


def write(path: Path, select: str, *, ops: str = "0") -> None:
    """The rows of `select` as a data file: field ids from 1, a token that counts rows, and `ops` as its operation."""
    with duckdb.connect() as connection:
        target = str(path).replace("'", "''")
        names = [row[0] for row in connection.execute(f"DESCRIBE {select}").fetchall()]
        ids = ", ".join(f"{name}: {number}" for number, name in enumerate(names, start=1))
        connection.execute(
            f"COPY (SELECT *, row_number() OVER () AS _duckmesh_token, ({ops})::TINYINT AS _duckmesh_op"
            f" FROM ({select}))"
            f" TO '{target}' (FORMAT parquet, FIELD_IDS {{{ids}, {SYSTEM_FIELDS}}})"
        )


def make_pool(zygote: Zygote, *, spares: int = 2, runner_limit: int = 4, max_queries: int = 500) -> Pool:
    """A pool of two places, which one tenant may have both."""
    return Pool(
        PoolSettings(
            socket=zygote.socket,
            spares=spares,
            runner_limit=runner_limit,
            concurrency=2,
            tenant_concurrency=2,
            max_queries=max_queries,
        )
    )


def ask(
    pool: Pool,
    lake: Lake,
    sql: str,
    params: Params | None = None,
    *,
    tenant: str = "a",
    seconds: float = 20,
    views: tuple[TableView, ...] | None = None,
    row_limit: int | None = 10_000,
    max_bytes: int = 16 * 2**20,
) -> RunAnswer:
    """Inspects and runs as the query service does."""
    deadline = time.monotonic() + seconds
    with pool.session(tenant_id=tenant, tenant_dir=lake.directory(tenant), deadline=deadline) as session:
        session.inspect(sql)
        shown = views if views is not None else (lake.views if tenant == "a" else ())
        request = RunRequest(sql=sql, params=params, views=shown, row_limit=row_limit, max_bytes=max_bytes)
        return session.run(request)


def rows(answer: RunAnswer) -> list[dict[str, object]]:
    """The answer's rows; the stream is checked in full on the way."""
    table: pa.Table = ipc.open_stream(answer.arrow).read_all()
    table.validate(full=True)
    found: list[dict[str, object]] = table.to_pylist()
    return found


def attacks(root: Path) -> list[tuple[str, str]]:
    """Name and statement of every attack, those included that are too long or deep to write down.

    Those that name files name them below `root`.
    """
    found = []
    for line in ATTACKS.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            name, sql = line.split("\t", 1)
            sql = sql.replace("{root}", str(root)).replace("\\n", "\n").replace("\\u00a0", "\u00a0")
            found.append((name, sql))
    joins = " ".join(f"JOIN events e{number} USING (id)" for number in range(1, 60))
    found += [
        ("b22_deep_parens", f"select {'(' * 3000}1{')' * 3000}"),
        ("b24_many_or", f"select {' or '.join(f'id = {number}' for number in range(5000))} from events limit 1"),
        ("b26_nested_sub", f"select * from {'(select * from ' * 300}events{')' * 300}"),
        ("b28_many_joins", f"select count(*) from events e0 {joins}"),
        ("b46_many_subqueries", f"select {'+'.join(['(select count(*) from events)'] * 400)}"),
        ("b47_deep_list", f"select {'[' * 5000}1{']' * 5000}"),
        ("b48_deep_not", f"select {'not ' * 10_000}true"),
        ("b49_deep_case", f"select {'case when true then ' * 2000}1{' end' * 2000}"),
        ("b51_long_with", f"with {', '.join(f't{n} as (select {n})' for n in range(2000))} select 1"),
    ]
    assert len({re.sub(r"_.*", "", name) for name, _ in found}) > 100
    return found
