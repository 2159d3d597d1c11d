"""The kernel's walls, tried by code that no gate has looked at: each child seals itself and then does its worst."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from query.limits import Sealing, sealing
from tests.runners import CANARY, ROOT, Lake, make_lake, running_zygote

pytestmark = pytest.mark.skipif(not sealing().sealed, reason=sealing().describe())

ATTEMPT = """
import ctypes, json, os, socket, sys, threading
import duckdb
from query import limits
own, other, secret, spill = sys.argv[1:5]
limits.die_with(os.getppid())
limits.confine(memory_bytes=512 * 2**20, file_bytes=2**20)
limits.seal(readable=own, writable=spill)
connection = duckdb.connect(config={"threads": 2})
def sql(text):
    return lambda: str(connection.execute(text).fetchall())
def thread():
    worker = threading.Thread(target=lambda: None)
    worker.start()
    worker.join()
attempts = {
    "own files": sql(f"SELECT count(*) FROM '{own}/events.parquet'"),
    "spill": lambda: open(os.path.join(spill, "x"), "wb").write(b"x"),
    "threads": thread,
    "another tenant": sql(f"SELECT * FROM '{other}/secret.parquet'"),
    "traversal": sql(f"SELECT * FROM '{own}/../b/secret.parquet'"),
    "the host": sql(f"SELECT * FROM read_text('{secret}')"),
    "passwords": lambda: open("/etc/passwd").read(),
    "our code": lambda: open(limits.__file__).read(),
    "own directory's names": lambda: os.listdir(own),
    "writing to own files": sql(f"COPY (SELECT 1) TO '{own}/x.csv'"),
    "writing elsewhere": sql("COPY (SELECT 1) TO '/tmp/duckmesh-escape.csv'"),
    "attaching": sql(f"ATTACH '{own}/x.db'"),
    "tcp": lambda: socket.create_connection(("127.0.0.1", 9), 1),
    "udp": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
    "unix sockets": lambda: socket.socket(socket.AF_UNIX),
    "another program": lambda: os.execv("/bin/true", ["true"]),
    "another process": os.fork,
    "signals": lambda: os.kill(os.getppid(), 0),
    "handles on processes": lambda: os.pidfd_open(os.getppid()),
    "others' memory": lambda: open(f"/proc/{os.getppid()}/mem", "rb"),
    "own environment": lambda: open("/proc/self/environ", "rb").read(),
    "big spill files": lambda: open(os.path.join(spill, "y"), "wb").write(b"x" * 2**21) > 2**20 or 1 / 0,
    "memory without end": lambda: bytearray(4 * 2**30),
}
outcomes = {}
for name, attempt in attempts.items():
    try:
        outcomes[name] = f"done: {attempt()}"
    except BaseException as exc:
        outcomes[name] = f"denied: {type(exc).__name__}"
print(json.dumps(outcomes))
"""


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    return make_lake(tmp_path_factory.mktemp("lake"))


def test_a_sealed_process_has_its_own_files_and_nothing_else(lake: Lake, tmp_path: Path) -> None:
    places = [str(lake.directory("a")), str(lake.directory("b")), str(lake.root / "secret.txt"), str(tmp_path)]
    child = subprocess.run(
        [sys.executable, "-c", ATTEMPT, *places], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    outcomes = json.loads(child.stdout)
    allowed = {name for name, outcome in outcomes.items() if outcome.startswith("done")}
    assert allowed == {"own files", "spill", "threads"}
    assert CANARY not in child.stdout


def test_no_secret_of_the_service_is_in_a_zygotes_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DUCKMESH_SECRET_KEY", CANARY)
    with running_zygote() as zygote:
        environment = Path(f"/proc/{zygote.process.pid}/environ").read_bytes()
    assert CANARY.encode() not in environment
    assert b"DUCKMESH" not in environment


@pytest.mark.parametrize(
    ("abi", "seccomp", "sealed"),
    [(0, False, False), (0, True, False), (1, False, False), (1, True, True), (4, False, True)],
)
def test_sealed_means_files_and_network(abi: int, seccomp: bool, sealed: bool) -> None:
    found = Sealing(landlock_abi=abi, seccomp=seccomp)
    assert found.sealed is sealed
    assert ("cannot" in found.describe()) is not sealed
