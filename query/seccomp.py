"""A seccomp filter for a process that has all it needs: no new socket, program or process, no handle on another."""

import ctypes
import platform
import struct
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """How one kind of processor numbers the system calls."""

    audit: int
    clone: int
    clone3: int
    denied: dict[str, int]


_EVERYWHERE = {"pidfd_send_signal": 424, "io_uring_setup": 425, "pidfd_open": 434, "pidfd_getfd": 438}
ARCHITECTURES = {
    "x86_64": Architecture(
        audit=0xC000003E,
        clone=56,
        clone3=435,
        denied=_EVERYWHERE
        | {"socket": 41, "connect": 42, "bind": 49, "socketpair": 53, "fork": 57, "vfork": 58, "execve": 59, "kill": 62}
        | {"ptrace": 101, "mount": 165, "keyctl": 250, "unshare": 272, "perf_event_open": 298, "setns": 308}
        | {"process_vm_readv": 310, "process_vm_writev": 311, "bpf": 321, "execveat": 322, "userfaultfd": 323},
    ),
    "aarch64": Architecture(
        audit=0xC00000B7,
        clone=220,
        clone3=435,
        denied=_EVERYWHERE
        | {"mount": 40, "unshare": 97, "ptrace": 117, "kill": 129, "socket": 198, "socketpair": 199, "bind": 200}
        | {"connect": 203, "keyctl": 219, "execve": 221, "perf_event_open": 241, "setns": 268, "process_vm_readv": 270}
        | {"process_vm_writev": 271, "bpf": 280, "execveat": 281, "userfaultfd": 282},
    ),
}

_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _JUMP_SET, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_EPERM, _ENOSYS = 1, 38
_NUMBER_AT, _ARCHITECTURE_AT, _FIRST_ARGUMENT_AT = 0, 4, 16
_CLONE_THREAD = 0x10000
_X32_NUMBERS = 0x40000000


def available() -> bool:
    """The kernel filters system calls, and we know the numbers of this processor."""
    try:
        actions = Path("/proc/sys/kernel/seccomp/actions_avail").read_text(encoding="ascii").split()
    except OSError:
        return False
    return "errno" in actions and platform.machine() in ARCHITECTURES


def program() -> ctypes.Array[ctypes.c_char]:
    """The filter as an array of `struct sock_filter`; threads may still be made, clone3 seems not to exist."""
    known = ARCHITECTURES[platform.machine()]
    denied = sorted(known.denied.values())
    # (operation, jump if true, jump if false, operand); jumps count the instructions to skip.
    instructions = [
        (_LOAD, 0, 0, _ARCHITECTURE_AT),
        (_JUMP_EQUAL, 1, 0, known.audit),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER_AT),
        (_JUMP_AT_LEAST, 0, 1, _X32_NUMBERS),
        (_RETURN, 0, 0, _KILL),
        (_JUMP_EQUAL, 0, 1, known.clone3),
        (_RETURN, 0, 0, _ERRNO | _ENOSYS),
        *((_JUMP_EQUAL, len(denied) - place + 3, 0, number) for place, number in enumerate(denied)),
        (_JUMP_EQUAL, 0, 2, known.clone),
        (_LOAD, 0, 0, _FIRST_ARGUMENT_AT),
        (_JUMP_SET, 0, 1, _CLONE_THREAD),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _ERRNO | _EPERM),
    ]
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in instructions)
    return ctypes.create_string_buffer(code, len(code))
