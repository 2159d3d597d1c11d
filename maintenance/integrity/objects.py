"""The store's listing held against the catalog: what is missing, what has another size, and what nobody knows.

Both are walked through side by side in the order of their keys, so that a page of each is in memory and the store is
asked once for a thousand objects. What looks wrong may only have changed in between: the store is asked for that one
object, and the catalog after that. An object whose row still says then that it must be there was missing.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta

from catalog.identity import RESERVED_PREFIX
from duckmesh.kernel.clock import now
from maintenance.integrity.checks import Part
from maintenance.integrity.effects import effect_of
from maintenance.integrity.findings import Finding, FindingKind
from maintenance.integrity.records import KeptSnapshots, Record, given_up, records
from storage.errors import ObjectNotFound
from storage.store import ObjectInfo, ObjectStore

_SLICE = 5_000
_MOST_SUSPECTS = 500

# What a writer of ours may be about to name.
_IN_FLIGHT = re.compile(r"[a-z0-9][^/]*/[^/]+/.+/part-\d+-\d+-[0-9a-f-]{36}\.parquet|_staged/[^/]+/[^/]+\.envelope")


@dataclass(frozen=True, kw_only=True)
class Ground:
    """What a run goes over in the store: everything, a tenant's objects, or those below a table's name."""

    prefixes: tuple[str, ...]
    part: Part | None

    def holds(self, record: Record) -> bool:
        """Whether the record is one that the run is about; others are only known."""
        if self.part is None:
            return True
        return record.tenant_id == self.part.tenant_id and self.part.table_id in (None, record.table_id)


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What a slice of the comparison came to; the next one begins behind `upto`."""

    upto: str
    findings: list[Finding]
    references: int
    files: int
    staged: int
    objects: int


@dataclass(kw_only=True)
class _Slice:
    """What has been seen since the last slice ended."""

    references: int = 0
    files: int = 0
    staged: int = 0
    objects: int = 0
    upto: str = ""
    missing: list[Record] = field(default_factory=list)
    sizes: list[Record] = field(default_factory=list)
    unknown: list[ObjectInfo] = field(default_factory=list)

    @property
    def full(self) -> bool:
        """Whether it is time to look closer."""
        suspects = len(self.missing) + len(self.sizes) + len(self.unknown)
        return self.objects + self.files >= 2 * _SLICE or suspects >= _MOST_SUSPECTS


def compare(*, store: ObjectStore, ground: Ground, prefix: str, after: str, grace: timedelta) -> Iterator[Compared]:
    """Slice by slice, what the store and the catalog say of the objects below `prefix` and behind `after`."""
    kept = KeptSnapshots(ground.part)
    seen = _Slice()
    for key, record, info in _pairs(records(prefix=prefix, after=after), store.list(prefix, after=after)):
        seen.upto = key
        seen.objects += info is not None
        if record is None:
            assert info is not None
            if not key.startswith(RESERVED_PREFIX):
                seen.unknown.append(info)
        elif ground.holds(record):
            _look(record, info, kept=kept, seen=seen)
        if seen.full:
            yield _concluded(seen, store=store, ground=ground, kept=kept, grace=grace)
            seen = _Slice()
    if seen.upto:
        yield _concluded(seen, store=store, ground=ground, kept=kept, grace=grace)


def _look(record: Record, info: ObjectInfo | None, *, kept: KeptSnapshots, seen: _Slice) -> None:
    if record.file_id is None:
        seen.staged += 1
    else:
        references = kept.naming(record)
        seen.references += references
        seen.files += references > 0
    if info is None:
        if record.must_be:
            seen.missing.append(record)
    elif info.size != record.size_bytes:
        seen.sizes.append(record)


def _pairs(
    known: Iterator[Record], listed: Iterator[ObjectInfo]
) -> Iterator[tuple[str, Record | None, ObjectInfo | None]]:
    """Record and object of each key, in the order of the keys' bytes, which is that of their characters."""
    record, info = next(known, None), next(listed, None)
    while record is not None or info is not None:
        if info is None or (record is not None and record.path < info.key):
            assert record is not None
            yield record.path, record, None
            record = next(known, None)
        elif record is None or info.key < record.path:
            yield info.key, None, info
            info = next(listed, None)
        else:
            yield info.key, record, info
            record, info = next(known, None), next(listed, None)


def _concluded(seen: _Slice, *, store: ObjectStore, ground: Ground, kept: KeptSnapshots, grace: timedelta) -> Compared:
    tenant_id = ground.part.tenant_id if ground.part else None
    return Compared(
        upto=seen.upto,
        findings=[
            *_missing(seen.missing, store=store, kept=kept),
            *_of_other_size(seen.sizes, store=store),
            *_unknown(seen.unknown, store=store, tenant_id=tenant_id, grace=grace),
        ],
        references=seen.references,
        files=seen.files,
        staged=seen.staged,
        objects=seen.objects,
    )


def _missing(suspects: Iterable[Record], *, store: ObjectStore, kept: KeptSnapshots) -> Iterator[Finding]:
    absent = [record for record in suspects if _size(store, record.path) is None]
    for record in _still_named(absent):
        if record.file_id is None:
            kind = FindingKind.MISSING_STAGED_OBJECT
        else:
            kind = FindingKind.MISSING_FILE if kept.naming(record) else FindingKind.MISSING_UNREFERENCED_FILE
        yield _finding(kind, record)


def _of_other_size(suspects: list[Record], *, store: ObjectStore) -> Iterator[Finding]:
    sizes = {record.path: _size(store, record.path) for record in suspects}
    wrong = [record for record in suspects if sizes[record.path] not in (None, record.size_bytes)]
    for record in _still_named(wrong):
        kind = FindingKind.STAGED_SIZE_MISMATCH if record.file_id is None else FindingKind.SIZE_MISMATCH
        yield _finding(kind, record, size_in_store=sizes[record.path])


def _still_named(suspects: list[Record]) -> list[Record]:
    """Those whose objects must be there at this moment: rows that are given up never come back."""
    states = given_up([record.path for record in suspects]) if suspects else {}
    return [record for record in suspects if states.get(record.path) is False]


def _finding(kind: FindingKind, record: Record, **facts: int | None) -> Finding:
    effect = {"rows_lost": record.row_count} if record.file_id is None else effect_of(record.file_id)
    return Finding(
        kind=kind,
        tenant_id=record.tenant_id,
        table_id=record.table_id,
        file_id=record.file_id,
        object_key=record.path,
        detail={"size_bytes": record.size_bytes, **facts, **effect},
    )


def _unknown(
    suspects: list[ObjectInfo], *, store: ObjectStore, tenant_id: str | None, grace: timedelta
) -> Iterator[Finding]:
    named = given_up([info.key for info in suspects]) if suspects else {}
    for info in suspects:
        if info.key in named:
            continue
        young = now() - info.modified < grace and _IN_FLIGHT.fullmatch(info.key) is not None
        # One that was collected since it was listed has neither row nor object.
        if young or _size(store, info.key) is not None:
            yield Finding(
                kind=FindingKind.ORPHAN_IN_GRACE if young else FindingKind.ORPHAN_OBJECT,
                tenant_id=tenant_id,
                object_key=info.key,
                detail={"size_bytes": info.size, "modified": info.modified.isoformat()},
            )


def _size(store: ObjectStore, key: str) -> int | None:
    try:
        return store.stat(key).size
    except ObjectNotFound:
        return None
