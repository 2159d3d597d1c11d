"""Files that no snapshot names are deleted: tombstone, delete objects, forget rows.

A process that dies between two of these steps leaves what the next run finds: a tombstoned file, with its object or
without. Two runs at once do the same work twice and count it once: whoever removes a row has deleted the file.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

import structlog

from catalog.collect import Doomed, doomed_files, forget_files, tombstone_files
from catalog.identity import delete_objects
from duckmesh.kernel import metrics
from duckmesh.kernel.failpoints import failpoint
from duckmesh.kernel.spans import spelled
from maintenance.job import Progress
from storage.store import ObjectStore

log = structlog.get_logger(__name__)

_MOST_FILES = 1_000
_TOLD_KEYS = 20


@dataclass(frozen=True, kw_only=True)
class Collected:
    """What a collection has deleted, and how many objects the store did not delete, which the next one tries again."""

    files: int = 0
    size_bytes: int = 0
    undeleted: int = 0

    def __add__(self, other: "Collected") -> "Collected":
        return Collected(
            files=self.files + other.files,
            size_bytes=self.size_bytes + other.size_bytes,
            undeleted=self.undeleted + other.undeleted,
        )


def collect_files(
    *, tenant_id: str, table_id: int | None, safety_age: timedelta, store: ObjectStore, progress: Progress, done: float
) -> Collected:
    """Every file that no snapshot has named for the safety age, and that no hold keeps, is gone: object, then row.

    Raises `StoreNotOurs`, what the store raises when it does not answer, and what `progress` raises.
    """
    while tombstone_files(tenant_id=tenant_id, table_id=table_id, unreferenced_for=safety_age, most=_MOST_FILES):
        failpoint("gc.after_tombstone")
        progress.at("tombstone", done)
    total = Collected()
    for files in _doomed(tenant_id, table_id):
        progress.at("delete", done)
        slice_ = _delete(tenant_id, files, store=store)
        total += slice_
        keys = [file.path for file in files]
        audit(progress, slice_, tenant_id=tenant_id, keys=keys, why=f"named by no snapshot for {spelled(safety_age)}")
    return total


def audit(progress: Progress, done: Collected, *, tenant_id: str, keys: Sequence[str], why: str) -> None:
    """The run's history tells what was deleted and why, with the first of the keys: the log has all of them."""
    progress.step(
        "deleted",
        tenant_id=tenant_id,
        objects=done.files,
        bytes=done.size_bytes,
        undeleted=done.undeleted,
        why=why,
        first_keys=list(keys[:_TOLD_KEYS]),
    )


def _doomed(tenant_id: str, table_id: int | None) -> Iterator[list[Doomed]]:
    after = 0
    while files := doomed_files(tenant_id=tenant_id, table_id=table_id, after=after, most=_MOST_FILES):
        after = files[-1].file_id
        yield files


def _delete(tenant_id: str, files: list[Doomed], *, store: ObjectStore) -> Collected:
    kept = set(delete_objects(store=store, keys=[file.path for file in files]))
    failpoint("gc.after_objects")
    gone = forget_files(tenant_id=tenant_id, file_ids=[file.file_id for file in files if file.path not in kept])
    failpoint("gc.after_rows")
    size_bytes = sum(file.size_bytes for file in gone)
    metrics.gc_files_deleted.inc(len(gone))
    metrics.gc_bytes_deleted.labels("file").inc(size_bytes)
    metrics.gc_undeleted_objects.inc(len(kept))
    for file in gone:
        log.info("file_deleted", tenant_id=tenant_id, key=file.path, size_bytes=file.size_bytes)
    return Collected(files=len(gone), size_bytes=size_bytes, undeleted=len(kept))
