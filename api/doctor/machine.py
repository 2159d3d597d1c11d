"""What this machine must have: a kernel that seals, the DuckDB whose hashes are on record, and room."""

from collections.abc import Callable

from api.doctor.findings import Verdict, odd, well, wrong
from ingest.guard import GuardPolicy, free_bytes
from query import limits
from storage.parquet import require_content_hash

_SOON_SHORT = 3


def sealing(*, allow_unsealed: bool) -> Callable[[], Verdict]:
    """A check that tenants' statements run where they can reach nothing."""

    def look() -> Verdict:
        can = limits.sealing()
        measured = {"landlock_abi": can.landlock_abi, "seccomp": can.seccomp}
        if can.sealed:
            return well(can.describe(), **measured)
        if allow_unsealed:
            return odd(f"{can.describe()} DUCKMESH_ALLOW_UNSEALED_SQL lets them run all the same.", **measured)
        return wrong(f"{can.describe()} Queries are refused.", **measured)

    return look


def engine() -> Verdict:
    """DuckDB's hash is the one by which contents were proven. Raises what `storage.parquet` raises if it is not."""
    return well("DuckDB's hashes are those on record.", duckdb=require_content_hash())


def disk(policy: GuardPolicy) -> Callable[[], Verdict]:
    """A check of the room where scratch files, and objects if they are here, are written."""

    def look() -> Verdict:
        free = min(free_bytes(directory) for directory in policy.directories)
        measured = {"free_bytes": free, "min_free_bytes": policy.min_free_disk_bytes}
        if free < policy.min_free_disk_bytes:
            return wrong("The disk is too full: writes are refused.", **measured)
        if free < _SOON_SHORT * policy.min_free_disk_bytes:
            return odd("The disk is getting full.", **measured)
        return well("There is room on the disk.", **measured)

    return look
