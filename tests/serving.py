"""What stands behind the API in a test that talks to Django's test client: a worker, and the query runners."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta

from django.conf import settings

from api.process import held, object_store, release
from duckmesh.kernel.config import ROOT
from ingest.backlog import FlushPolicy
from ingest.materializer import materialize_tenant
from ingest.tasks import materialize_policy
from tests.together import Background


@contextmanager
def worker(*tenant_ids: str) -> Iterator[None]:
    """A worker publishes what these tenants write, at once."""
    stop = threading.Event()
    policy = replace(materialize_policy(settings.DUCKMESH), flush=FlushPolicy(interval=timedelta(0), size_bytes=1))

    def work() -> None:
        while not stop.is_set():
            for tenant_id in tenant_ids:
                materialize_tenant(
                    tenant_id=tenant_id,
                    wanted=0,
                    store=object_store(),
                    policy=policy,
                    consumer_id="test",
                    until=time.monotonic() + 5,
                )
            stop.wait(0.01)

    running = Background(work)
    try:
        yield
    finally:
        stop.set()
        running.result()


@contextmanager
def serving() -> Iterator[None]:
    """What the API holds ends with this block: its threads, its connections and its runners."""
    try:
        held()
        yield
    finally:
        release()


@contextmanager
def query_runners() -> Iterator[None]:
    """The process that forks runners is there, where the API looks for it."""
    socket = settings.DUCKMESH.home / "run" / "runners.sock"
    socket.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "query.zygote", "--socket", str(socket), "--exit-with-parent"]
    with subprocess.Popen(command, cwd=ROOT) as process:
        try:
            yield
        finally:
            process.terminate()
