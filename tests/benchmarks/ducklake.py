"""DuckLake beside the stack that is measured: a catalog on its PostgreSQL, scripts in an environment of their own."""

import json
import subprocess
from contextlib import closing
from typing import Any

import psycopg2
from psycopg2.extensions import ISOLATION_LEVEL_AUTOCOMMIT, parse_dsn

from duckmesh.kernel.config import Config
from tests.benchmarks.database import superusers
from tests.environments import ROOT, environment

_DATABASE = "ducklake"


def fresh_catalog(config: Config) -> str:
    """The connection string of a database that is empty."""
    address = superusers(config)
    with closing(psycopg2.connect(address)) as connection, connection.cursor() as cursor:
        connection.set_isolation_level(ISOLATION_LEVEL_AUTOCOMMIT)
        cursor.execute(f"DROP DATABASE IF EXISTS {_DATABASE} WITH (FORCE)")
        cursor.execute(f"CREATE DATABASE {_DATABASE}")
    return " ".join(f"{name}={value}" for name, value in {**parse_dsn(address), "dbname": _DATABASE}.items())


# Any: JSON of the script's own.
def run_beside(script: str, job: dict[str, Any], *, timeout: float = 600) -> Any:
    """What the module `tests.benchmarks.<script>` tells on stdout of the job that it got on stdin."""
    python = environment("bench/ducklake", requirements=ROOT / "requirements" / "bench.txt") / "bin" / "python"
    done = subprocess.run(
        [python, "-m", f"tests.benchmarks.{script}"],
        input=json.dumps(job),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )
    if done.returncode:
        raise RuntimeError(f"{script} ended with status {done.returncode}: {done.stderr[-2000:]}")
    return json.loads(done.stdout)
