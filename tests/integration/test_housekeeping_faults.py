"""Housekeeping that is killed, stopped, or beside a dump: nothing is lost, nothing is left for ever."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from django.conf import settings
from django.db import connection, connections
from django.db.models import F
from django.db.models.functions import Now

from api.process import object_store
from duckmesh.kernel.config import ROOT
from ingest.housekeeping import keep_house
from ingest.models import IngestEvent, IngestKey, IngestStaged
from ingest.tasks import housekeeping_policy
from tests.factories import make_table, make_tenant
from tests.lake import Lake, write_ids
from tests.together import Background

pytestmark = pytest.mark.django_db(transaction=True)

OLD = timedelta(days=8)


@pytest.fixture
def tenant_id(tmp_path: Path) -> str:
    """A tenant with three committed envelopes of which two are past the window, and an abandoned staged object."""
    tenant_id = make_tenant()
    make_table(tenant_id=tenant_id)
    for identities in ("ab", "cd", "ef"):
        write_ids(tenant_id, *identities)
    Lake(tmp_path).materialize(tenant_id)
    IngestEvent.objects.filter(first_token__lt=5).update(accepted_at=F("accepted_at") - OLD)
    path = f"_staged/{tenant_id}/abandoned.envelope"
    object_store().put(path, b"rows")
    IngestStaged.objects.create(tenant_id=tenant_id, path=path, size_bytes=4)
    IngestStaged.objects.update(created_at=Now() - OLD)
    return tenant_id


def start(failpoints: str) -> subprocess.Popen[str]:
    """Housekeeping in a process of its own, on the database of this test."""
    address, _ = settings.DUCKMESH.database_url.rsplit("/", 1)
    environment = {
        **os.environ,
        "DUCKMESH_DATABASE_URL": f"{address}/{connection.settings_dict['NAME']}",
        "DUCKMESH_FAILPOINTS": failpoints,
    }
    command = [sys.executable, "manage.py", "housekeeping", "--json"]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)


def clean() -> None:
    keep_house(store=object_store(), policy=housekeeping_policy(settings.DUCKMESH), seconds=30)


def left(tenant_id: str) -> tuple[int, int, int, int]:
    """Envelopes, keys, rows of staged objects, and staged objects."""
    objects = sum(1 for _ in object_store().list(f"_staged/{tenant_id}/"))
    return IngestEvent.objects.count(), IngestKey.objects.count(), IngestStaged.objects.count(), objects


@pytest.mark.parametrize(
    ("step", "expected"),
    [("after_mark", (3, 6, 1, 1)), ("after_objects", (3, 6, 1, 0)), ("after_keys", (3, 6, 0, 0))],
)
def test_killed_housekeeping_leaves_whole_envelopes_and_the_next_run_the_rest(
    tenant_id: str, step: str, expected: tuple[int, int, int, int]
) -> None:
    process = start(f"housekeeping.{step}=kill")
    assert process.communicate(timeout=60)[0] == ""
    assert process.returncode == -signal.SIGKILL
    assert left(tenant_id) == expected
    clean()
    assert left(tenant_id) == (1, 2, 0, 0)


@pytest.mark.long
def test_stopped_housekeeping_holds_up_no_writer_for_long(tenant_id: str) -> None:
    process = start("housekeeping.after_keys=stop")
    try:
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        retry = Background(lambda: write_ids(tenant_id, "a").duplicate_count)
        assert retry.result(15) == 1, "the database has ended the stopped session, and what it did is undone"
        clean()
        assert left(tenant_id)[:2] == (1, 2)
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def dump() -> Iterator[None]:
    """Somebody reads the database as it is now, and takes long."""
    reading = connections.create_connection("default")
    with reading.cursor() as cursor:
        cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM ingest_key")
        before = cursor.fetchone()
        yield
        cursor.execute("SELECT count(*) FROM ingest_key")
        assert cursor.fetchone() == before, "a dump sees what was there when it began"
        cursor.execute("COMMIT")
    reading.close()


def test_purge_goes_on_beside_a_dump(tenant_id: str, dump: None) -> None:
    clean()
    assert left(tenant_id) == (1, 2, 0, 0)
    assert write_ids(tenant_id, "a", "e").accepted_count == 1
