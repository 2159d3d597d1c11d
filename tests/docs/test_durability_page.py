"""docs/durability.md is done as it is printed: an archive, a recovery to a point in time, a standby, a failover."""

import os
import re
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from django.db import connection

from api.doctor import catalog as checks
from api.doctor.findings import State
from catalog.identity import identity
from catalog.models import VoidRange
from catalog.server import Standing, standing
from catalog.snapshots import latest_issued_token, resolve
from duckmesh.devstack.postgres import UNPRIVILEGED, binaries
from maintenance.restore.adopting import adopt_after_loss, adopt_without_loss
from tests.backups import address
from tests.clusters import PASSWORD, Cluster, cluster, copy_of, eventually, program
from tests.factories import make_table, make_tenant
from tests.lake import Lake, write_ids

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.long]

PAGE = (Path(__file__).parents[2] / "docs" / "durability.md").read_text("utf-8")
BLOCKS = [
    (kind, "\n".join(line.removeprefix(indent) for line in text.splitlines()))
    for indent, kind, text in re.findall(r"^( *)```(\w+)\n(.*?)^ *```$", PAGE, re.MULTILINE | re.DOTALL)
]


def block(word: str) -> str:
    """The block of the page that holds the word."""
    return next(text for _, text in BLOCKS if word in text)


def settings_of(text: str) -> dict[str, str]:
    return {name: value.strip("'") for name, value in re.findall(r"^(\w+) = (.+)$", text, re.MULTILINE)}


def shell(text: str, **variables: str) -> None:
    """The commands have succeeded, as the user that PostgreSQL runs as."""
    path = f"{binaries()}:{os.environ['PATH']}"
    as_root = os.geteuid() == 0
    done = subprocess.run(
        ["bash", "-euc", text],
        env={"PATH": path, **variables},
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
        user=UNPRIVILEGED if as_root else None,
        extra_groups=[] if as_root else None,
    )
    assert done.returncode == 0, done.stderr


def source(of: Cluster) -> str:
    return f"host=127.0.0.1 port={of.port} user=postgres password={PASSWORD}"


def placed(text: str, places: Mapping[str, Path]) -> str:
    for name, path in places.items():
        text = text.replace(name, str(path))
    return text


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "lake")


def test_recovery_to_a_point_in_time_brings_back_all_until_then(lake: Lake) -> None:
    with cluster() as first, cluster() as second:
        _recover(lake, first, second, {"/archive": second.home / "archive", "/base/today": second.home / "base"})


def _recover(lake: Lake, first: Cluster, second: Cluster, places: Mapping[str, Path]) -> None:
    _owned(second.data.parent)
    shell('mkdir -p "$A"', A=str(places["/archive"]))
    first.settings = settings_of(placed(block("archive_mode = on"), places))
    tenant_id = make_tenant()
    make_table(tenant_id=tenant_id)
    copy_of(address("postgres"), first)
    first.start()
    with first.serving():
        assert standing() == Standing.KNOWN
        shell(placed(block("-D /base/today"), places), SOURCE=source(first))
        write_ids(tenant_id, "a", "b")
        lake.materialize(tenant_id)
        known = latest_issued_token(tenant_id=tenant_id)
        target = str(first.run("SELECT clock_timestamp()")[0][0])
        time.sleep(0.1)
        write_ids(tenant_id, "mistake")
        lake.materialize(tenant_id)
        lost = (latest_issued_token(tenant_id=tenant_id), resolve(tenant_id=tenant_id).snapshot_id)
        first.run("SELECT pg_switch_wal()")
        eventually(first.server.url("postgres"), "SELECT archived_count > 1 FROM pg_stat_archiver")
        found = checks.copies()
        assert (found.state, found.measured["archiving"]) == (State.OK, True)
        assert found.measured["rpo_seconds"] < 60  # type: ignore[operator]
    first.stop()
    recovery = placed(block("recovery.signal"), places).replace("2026-11-30 02:15:00+00", target)
    shell(recovery, PGDATA=str(second.data))
    second.start()
    eventually(second.server.url("postgres"), "SELECT NOT pg_is_in_recovery()")
    with second.serving():
        assert standing() == Standing.CHANGED
        assert lake.rows(tenant_id) == {"a": 1, "b": 1}
        assert latest_issued_token(tenant_id=tenant_id) == known
        assert adopt_after_loss().incarnation == 2
        void = VoidRange.objects.get(tenant_id=tenant_id)
        assert void.first_token <= lost[0] <= void.last_token
        assert void.first_snapshot_id <= lost[1] <= void.last_snapshot_id
        write_ids(tenant_id, "c")
        lake.materialize(tenant_id)
        assert lake.rows(tenant_id) == {"a": 1, "b": 1, "c": 1}


def test_failover_to_a_synchronous_standby_loses_nothing(lake: Lake) -> None:
    tenant_id = make_tenant()
    make_table(tenant_id=tenant_id)
    with cluster(**settings_of(block("synchronous_standby_names = "))) as first, cluster() as second:
        first.settings = {**first.settings, "synchronous_commit": "local"}  # until there is a standby
        copy_of(address("postgres"), first)
        first.start()
        _owned(second.data.parent)
        commands = re.sub(r"^SOURCE=.*\n", "", block("pg_create_physical_replication_slot"))
        shell(commands, SOURCE=source(first), PGDATA=str(second.data))
        second.start()
        eventually(
            first.server.url("postgres"),
            "SELECT coalesce(bool_or(sync_state = 'sync' AND state = 'streaming'), false) FROM pg_stat_replication",
        )
        with first.serving():
            found = checks.copies()
            assert (found.state, found.measured["rpo_seconds"]) == (State.OK, 0)
            acknowledged = [write_ids(tenant_id, f"w{number}").max_visibility_token for number in range(20)]
            connection.close()
        program("pg_ctl", "-D", str(first.data), "-m", "immediate", "stop")
        second.promote()
        with second.serving():
            assert standing() == Standing.CHANGED
            life = identity()
            adopt_without_loss()
            assert identity() == life
            assert latest_issued_token(tenant_id=tenant_id) == acknowledged[-1]
            lake.materialize(tenant_id)
            assert set(lake.rows(tenant_id)) == {f"w{number}" for number in range(20)}


def _owned(directory: Path) -> None:
    """Whoever PostgreSQL runs as may make directories there."""
    if os.geteuid() == 0 and directory.name.startswith("duckmesh-cluster-"):
        directory.chmod(0o777)
