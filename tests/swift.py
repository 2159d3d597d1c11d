"""A real S3 service for the tests: OpenStack Swift with its `s3api`, from PyPI in its own environment.

The environment is made once, from requirements/s3test.txt with hashes, in `.duckmesh/s3test` of the repository, or in
the user's cache where the repository cannot be written. The four servers die with the process that started them.
"""

import atexit
import ctypes
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.environments import ROOT, environment

REQUIREMENTS = ROOT / "requirements" / "s3test.txt"

ACCESS_KEY = "test:tester"
SECRET_KEY = "testing"

_PR_SET_PDEATHSIG = 1
_SERVERS = ("account", "container", "object", "proxy")
_PIPELINE = (
    *("catch_errors", "gatekeeper", "healthcheck", "cache", "listing_formats", "bulk"),
    *("s3api", "tempauth", "copy", "slo", "proxy-server"),
)
_FILTERS = ("catch_errors", "gatekeeper", "healthcheck", "listing_formats", "bulk", "copy", "slo")

# What `swift-ring-builder create, add, rebalance` does, without a start of Python for each.
_MAKE_RINGS = """
import sys
from swift.common.ring import RingBuilder
for path, _, port in (argument.rpartition(":") for argument in sys.argv[1:]):
    place = {"region": 1, "zone": 1, "ip": "127.0.0.1", "port": int(port), "device": "d1", "weight": 1, "meta": ""}
    builder = RingBuilder(2, 1, 1)
    builder.add_dev(place | {"replication_ip": "127.0.0.1", "replication_port": int(port)})
    builder.rebalance()
    builder.get_ring().save(path)
"""


@dataclass(frozen=True, kw_only=True)
class Swift:
    """A running service; `host` is its address and port."""

    host: str


def unavailable_because() -> str | None:
    """Why this machine cannot run Swift, or None if it can."""
    if sys.platform != "linux":
        return "OpenStack Swift's wheels exist for Linux only"
    if _data_parent() is None:
        return "no directory here has a file system with extended attributes, which OpenStack Swift needs"
    return None


@contextmanager
def running_swift() -> Iterator[Swift]:
    """Swift listens on free ports of 127.0.0.1; afterwards nothing of it is left."""
    binaries = environment("s3test", requirements=REQUIREMENTS) / "bin"
    home = Path(tempfile.mkdtemp(prefix="duckmesh-swift-", dir=_data_parent()))
    processes: list[subprocess.Popen[bytes]] = []
    try:
        ports = _free_ports(len(_SERVERS) + 1)
        _configure(home, binaries, dict(zip((*_SERVERS, "memcached"), ports, strict=True)))
        for server in _SERVERS:
            with (home / f"{server}.log").open("wb") as log:
                processes.append(
                    subprocess.Popen(
                        [binaries / f"swift-{server}-server", home / f"{server}-server.conf", "--verbose"],
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,
                        preexec_fn=_die_with_parent,
                    )
                )
        _wait_until_ready(home, ports[: len(_SERVERS)], processes)
        yield Swift(host=f"127.0.0.1:{ports[_SERVERS.index('proxy')]}")
    finally:
        for process in processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        shutil.rmtree(home, ignore_errors=True)


@cache
def shared_swift() -> Swift:
    """One Swift for this whole process, started when first asked for and stopped at its end."""
    stack = ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(running_swift())


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _data_parent() -> Path | None:
    for parent in (Path(tempfile.gettempdir()), ROOT / ".duckmesh", Path.home() / ".cache"):
        with suppress(OSError), tempfile.NamedTemporaryFile(dir=parent) as file:
            os.setxattr(file.name, "user.duckmesh", b"1")
            return parent
    return None


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _configure(home: Path, binaries: Path, ports: dict[str, int]) -> None:
    (home / "devices" / "d1").mkdir(parents=True)
    salt = secrets.token_hex(8)
    (home / "swift.conf").write_text(
        f"[swift-hash]\nswift_hash_path_prefix = {salt}\nswift_hash_path_suffix = {salt}\n"
        "[storage-policy:0]\nname = one\ndefault = yes\n"
    )
    common = (
        f"[DEFAULT]\nbind_ip = 127.0.0.1\nuser = {pwd.getpwuid(os.getuid()).pw_name}\nswift_dir = {home}\n"
        "workers = 0\nlog_level = WARNING\n"
    )
    rings = [f"{home}/{server}.ring.gz:{ports[server]}" for server in _SERVERS[:3]]
    subprocess.run([binaries / "python", "-c", _MAKE_RINGS, *rings], check=True, capture_output=True)
    for server in _SERVERS[:3]:
        (home / f"{server}-server.conf").write_text(
            f"{common}bind_port = {ports[server]}\ndevices = {home}/devices\nmount_check = false\n"
            "fallocate_reserve = 0\ndisable_fallocate = true\n"
            f"[pipeline:main]\npipeline = {server}-server\n[app:{server}-server]\nuse = egg:swift#{server}\n"
        )
    filters = "".join(f"[filter:{name}]\nuse = egg:swift#{name}\n" for name in _FILTERS)
    (home / "proxy-server.conf").write_text(
        f"{common}bind_port = {ports['proxy']}\n[pipeline:main]\n"
        f"pipeline = {' '.join(_PIPELINE)}\n"
        "[app:proxy-server]\nuse = egg:swift#proxy\naccount_autocreate = true\n"
        "[filter:s3api]\nuse = egg:swift#s3api\nlocation = us-east-1\ns3_acl = false\n"
        "dns_compliant_bucket_names = true\nmin_segment_size = 5242880\n"
        f"[filter:tempauth]\nuse = egg:swift#tempauth\nuser_{ACCESS_KEY.replace(':', '_')} = {SECRET_KEY} .admin\n"
        # There is no memcached: the first error silences the rest.
        f"[filter:cache]\nuse = egg:swift#memcache\nmemcache_servers = 127.0.0.1:{ports['memcached']}\n"
        f"error_suppression_limit = 1\nerror_suppression_interval = 3600\n{filters}"
    )


def _wait_until_ready(home: Path, ports: list[int], processes: list[subprocess.Popen[bytes]]) -> None:
    deadline = time.monotonic() + 30
    waiting = list(ports)
    while waiting and time.monotonic() < deadline and all(process.poll() is None for process in processes):
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", waiting[0]), timeout=1).close()
            waiting.pop(0)
            continue
        time.sleep(0.05)
    if not waiting:
        address = f"http://127.0.0.1:{ports[_SERVERS.index('proxy')]}/healthcheck"
        with closing(urllib.request.urlopen(address, timeout=10)) as answer:
            if answer.status == 200:
                return
    logs = "\n".join(f"{path.name}: {path.read_text()[-500:]}" for path in sorted(home.glob("*.log")))
    raise RuntimeError(f"Swift did not start.\n{logs}")
