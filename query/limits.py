"""What a runner's process is denied by the kernel, from before it opens DuckDB until it dies.

Landlock leaves it one directory to read (and one to spill into), seccomp takes away sockets, other programs and other
processes, resource limits bound the rest. Each binds the calling thread and its later children: apply them while the
process has one thread. Where the system is not Linux nothing of this exists, and `sealing()` says so.
"""

import contextlib
import ctypes
import os
import resource
import signal
import struct
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from query import seccomp

LINUX = sys.platform == "linux"
MEMORY_HEADROOM = 3 * 2**29  # DuckDB's ordinary group-bys fail with less address space than this above its own limit
OPEN_FILES = 4096

# DuckDB asks for the limits of its control group when it starts, and aborts if the file exists but cannot be opened.
NEEDED_BY_DUCKDB = ("/proc/self/cgroup", "/sys/fs/cgroup")

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38
_SECCOMP_MODE_FILTER = 2
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_GET_VERSION, _PATH_BENEATH = 1, 1

_WRITE_FILE, _READ_FILE, _READ_DIR, _REMOVE_FILE, _MAKE_REG, _TRUNCATE = 1 << 1, 1 << 2, 1 << 3, 1 << 5, 1 << 8, 1 << 14
_FS_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}  # how many rights of files an ABI knows; from 5 on 16
_TCP_BIND_AND_CONNECT = 3
_SCOPE_ABSTRACT_SOCKETS_AND_SIGNALS = 3


@dataclass(frozen=True, kw_only=True)
class Sealing:
    """What this system can do. `landlock_abi` is 0 where there is no Landlock."""

    landlock_abi: int
    seccomp: bool

    @property
    def files(self) -> bool:
        """A runner can be kept from every file but its own."""
        return self.landlock_abi >= 1

    @property
    def network(self) -> bool:
        """A runner can be kept from the network."""
        return self.landlock_abi >= 4 or self.seccomp

    @property
    def sealed(self) -> bool:
        """Tenants' statements may run here."""
        return self.files and self.network

    def describe(self) -> str:
        """One sentence for a log, `/v1/ready` or a terminal."""
        if self.sealed:
            ways = f"Landlock ABI {self.landlock_abi}" + (" and seccomp" if self.seccomp else "")
            return f"Query runners are sealed by {ways}."
        missing = [name for name, there in (("files", self.files), ("network", self.network)) if not there]
        return f"This system cannot seal query runners: nothing keeps them from {' and '.join(missing)}."


@cache
def sealing() -> Sealing:
    """What the running kernel offers; asked once."""
    if not LINUX:
        return Sealing(landlock_abi=0, seccomp=False)
    abi = int(_libc().syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _GET_VERSION))
    return Sealing(landlock_abi=max(abi, 0), seccomp=seccomp.available())


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, *arguments: int) -> None:
    padded = [ctypes.c_ulong(value) for value in (*arguments, 0, 0, 0, 0)][:4]
    if _libc().prctl(option, *padded):
        raise OSError(ctypes.get_errno(), f"prctl {option}")


def die_with(parent: int) -> None:
    """This process ends with `parent`, its parent, however that dies."""
    if LINUX:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def confine(*, memory_bytes: int, file_bytes: int) -> None:
    """This process is small: bounded address space and files, no core, first to go when memory is short, and polite."""
    for kind, wanted in (
        (resource.RLIMIT_AS, memory_bytes + MEMORY_HEADROOM),
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
    ):
        _, hard = resource.getrlimit(kind)
        bound = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with contextlib.suppress(ValueError):  # macOS refuses RLIMIT_AS; there the runner is not sealed either
            resource.setrlimit(kind, (bound, bound))
    with contextlib.suppress(OSError):
        os.nice(5)
        os.setpgid(0, 0)  # the pool lowers the priority of the group, and so of every thread there is
    if LINUX:
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
        _prctl(_PR_SET_DUMPABLE, 0)  # no ptrace and no /proc/PID/mem for a sibling of the same user


def allow_cpu(seconds: float) -> None:
    """The process is killed after `seconds` of processor time from now; a backstop, should nobody else kill it."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(used.ru_utime + used.ru_stime + seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def peak_memory() -> int:
    """The most bytes this process has ever held in memory at once."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1024 if LINUX else 1)


def seal(*, readable: str, writable: str = "") -> None:
    """This process can read files below `readable`, write below `writable` if given, and reach nothing else.

    Raises `OSError` if the kernel refuses; the caller must then not go on. What the system does not have is left out:
    ask `sealing()` whether that is enough.
    """
    can = sealing()
    if LINUX:
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    if can.landlock_abi:
        _landlock(can.landlock_abi, readable, writable)
    if can.seccomp:
        _filter_system_calls()


def _landlock(abi: int, readable: str, writable: str) -> None:
    rights = (1 << _FS_RIGHTS.get(abi, 16)) - 1
    attributes = struct.pack("Q", rights)
    if abi >= 4:
        attributes += struct.pack("Q", _TCP_BIND_AND_CONNECT)
    if abi >= 6:
        attributes += struct.pack("Q", _SCOPE_ABSTRACT_SOCKETS_AND_SIGNALS)
    ruleset = _syscall(_CREATE_RULESET, attributes, len(attributes), 0)
    try:
        _allow_beneath(ruleset, readable, _READ_FILE)
        for name in NEEDED_BY_DUCKDB:
            with contextlib.suppress(FileNotFoundError):
                _allow_beneath(ruleset, name, _READ_FILE)
        if writable:
            spill = _READ_FILE | _READ_DIR | _WRITE_FILE | _REMOVE_FILE | _MAKE_REG | _TRUNCATE
            _allow_beneath(ruleset, writable, spill & rights)
        _syscall(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _allow_beneath(ruleset: int, directory: str, rights: int) -> None:
    path = os.open(directory, os.O_PATH | os.O_CLOEXEC)
    try:
        _syscall(_ADD_RULE, ruleset, _PATH_BENEATH, struct.pack("=Qi", rights, path), 0)
    finally:
        os.close(path)


def _filter_system_calls() -> None:
    code = seccomp.program()
    header = struct.pack("HxxxxxxQ", len(code) // 8, ctypes.addressof(code))
    holder = ctypes.create_string_buffer(header, len(header))
    _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(holder))


def _syscall(number: int, *arguments: int | bytes) -> int:
    plain = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    result = int(_libc().syscall(ctypes.c_long(number), *plain))
    if result < 0:
        raise OSError(ctypes.get_errno(), f"system call {number}")
    return result
