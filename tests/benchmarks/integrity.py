"""How long a quick integrity run takes over many files on a local store, and what it holds in memory.

The rows are made by SQL and the objects are tiny: a quick run reads neither. It runs in a process of its own, so that
its memory can be told.
"""

import json
import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import psycopg2

from duckmesh.kernel.config import ROOT, Config
from tests.benchmarks.database import superusers
from tests.benchmarks.load import Target
from tests.benchmarks.report import Figure

_FILES = 100_000
_A_SNAPSHOT = 100
_TENANT = "bench-integrity"

_CATALOG = """
INSERT INTO tenant (tenant_id, name, state, ddl_version) VALUES (%(tenant)s, 'bench', 'active', 0);
INSERT INTO tenant_catalog (tenant_id, snapshot_seq, visible_token, incarnation, token_floor, stored_files,
                            stored_bytes)
VALUES (%(tenant)s, %(snapshots)s, %(files)s, 1, %(files)s, %(files)s, %(files)s);
INSERT INTO snapshot (tenant_id, snapshot_id, parent_id, snapshot_time, visible_token, kind, created_by, summary)
SELECT %(tenant)s, n, nullif(n - 1, -1), c.snapshot_time - make_interval(secs => %(snapshots)s - n),
       n * %(each)s, CASE n WHEN 0 THEN 'create' ELSE 'ingest' END, 'bench',
       jsonb_build_object('tables', '[]'::jsonb, 'added_files', %(each)s, 'added_rows', %(each)s, 'removed_files', 0)
  FROM generate_series(0, %(snapshots)s) n, tenant_catalog c WHERE c.tenant_id = %(tenant)s;
UPDATE snapshot SET summary = '{}' WHERE tenant_id = %(tenant)s AND snapshot_id = 0;
WITH made AS (
  INSERT INTO table_def (tenant_id, name, schema_version, next_field_id, grows, primary_key_cols, partition_spec,
                         sort_cols, compatibility_mode, created_in, created_by)
  VALUES (%(tenant)s, 'events', 1, 2, false, '[]', '{}', '[]', 'backward', 0, 'bench') RETURNING table_id
), version AS (
  INSERT INTO table_schema_version (table_id, schema_version, schema_json, added_in)
  SELECT table_id, 1, '{"columns": [{"field_id": 1, "name": "n", "type": "int64", "nullable": true}]}', 0 FROM made
), file AS (
  INSERT INTO data_file (tenant_id, table_id, path, row_count, size_bytes, sha256, content_algorithm, content_hash,
                         schema_version, partition_values, column_stats, min_token, max_token, level, folded)
  SELECT %(tenant)s, table_id,
         format('%%s/events/hour=%%s/part-%%s.parquet', %(tenant)s::text, lpad((n / 1000)::text, 4, '0'), n),
         1, 1, repeat('0', 64), 'bench', 0, 1, '{}', '{}', n + 1, n + 1, 0, false
    FROM made, generate_series(0, %(files)s - 1) n
  RETURNING file_id, table_id, min_token
), held AS (
  INSERT INTO snapshot_file (file_id, tenant_id, table_id, added_in)
  SELECT file_id, %(tenant)s, table_id, 1 + (min_token - 1) / %(each)s FROM file
)
INSERT INTO snapshot_table_watermark (tenant_id, snapshot_id, table_id, max_token, row_count, file_count, size_bytes)
SELECT %(tenant)s, n, table_id, n * %(each)s, n * %(each)s, n * %(each)s, n * %(each)s
  FROM made, generate_series(1, %(snapshots)s) n;
"""


def many_files(target: Target, config: Config) -> list[Figure]:
    """Seconds of a quick run over 100,000 files in 1,000 snapshots, and the most memory that it held."""
    files = max(_A_SNAPSHOT, target.some(_FILES) // _A_SNAPSHOT * _A_SNAPSHOT)
    _objects(config.home / "objects", files)
    _rows(config, files)
    environment = {**os.environ, "DUCKMESH_HOME": str(config.home)}
    command = [sys.executable, "-m", "tests.benchmarks.integrity"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    told = json.loads(done.stdout)
    summary = told["summary"]
    assert (summary["unique_files_checked"], summary["errors"], summary["warnings"]) == (files, 0, 0), summary
    return [
        Figure(f"quick integrity run over {files:,} files", told["seconds"], "s", bar=30, lower_is_better=True),
        Figure("… most memory it held", told["megabytes"], "MiB"),
    ]


def _objects(root: Path, files: int) -> None:
    for number in range(files):
        path = root / _TENANT / "events" / f"hour={number // 1000:04}" / f"part-{number}.parquet"
        if number % 1000 == 0:
            path.parent.mkdir(parents=True)
        path.write_bytes(b"x")


def _rows(config: Config, files: int) -> None:
    address = superusers(config)
    with closing(psycopg2.connect(address)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            given = {"tenant": _TENANT, "files": files, "each": _A_SNAPSHOT, "snapshots": files // _A_SNAPSHOT}
            cursor.execute(_CATALOG, given)
            cursor.execute("VACUUM ANALYZE data_file, snapshot_file, snapshot")


def _run() -> None:
    """The run in this process, and what it took."""
    import resource
    import time

    import django

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "duckmesh.settings")
    django.setup()
    from django.conf import settings

    from maintenance.executing import Executor, execute
    from maintenance.job import Kind, Scope
    from maintenance.jobs import jobs, workplace
    from maintenance.runs import request_run

    job = jobs(settings.DUCKMESH)[Kind.INTEGRITY]
    scope = Scope(tenant_id=_TENANT)
    run_id = request_run(kind=job.kind, scope=scope, options=job.options(), requested_by="bench")
    began = time.perf_counter()
    executor = Executor(lease=settings.DUCKMESH.run_lease)
    ended = execute(job=job, run_id=run_id, place=workplace(settings.DUCKMESH), executor=executor)
    assert ended is not None
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": time.perf_counter() - began, "megabytes": megabytes, "summary": dict(ended.summary)}))


if __name__ == "__main__":
    _run()
