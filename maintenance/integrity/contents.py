"""A data file read from end to end, and held against all that the catalog says of it."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from django.db import connection

from catalog.models import DataFile
from catalog.partitions import group_rows
from duckmesh.kernel.errors import JSON
from maintenance.integrity.checks import Part
from maintenance.integrity.effects import effect_of
from maintenance.integrity.findings import Finding, FindingKind
from maintenance.integrity.layouts import Layout, Layouts
from maintenance.integrity.records import given_up
from maintenance.rewrite import Rewriter
from storage.columns import TOKEN_FIELD_ID
from storage.errors import DataFileCorrupt, ObjectNotFound, StoreUnavailable
from storage.parquet import ColumnStats, read_footer
from storage.proof import CONTENT_HASH_ALGORITHM, ContentProof
from storage.reading import quote_name, uniform_scan_sql
from storage.store import ObjectStore

_CHUNK = 2**20
_PAGE = 100

_NEXT = """
SELECT f.file_id FROM data_file f
 WHERE f.file_id > %(after)s AND f.tombstoned_at IS NULL
   AND (%(tenant)s::text IS NULL OR f.tenant_id = %(tenant)s) AND (%(table)s::bigint IS NULL OR f.table_id = %(table)s)
   AND EXISTS (SELECT 1 FROM (SELECT * FROM snapshot_file own WHERE own.file_id = f.file_id OFFSET 0) i
                 JOIN snapshot s ON s.tenant_id = i.tenant_id
                  AND s.snapshot_id BETWEEN greatest(i.added_in, %(from)s) AND %(to)s
                  AND (i.removed_in IS NULL OR s.snapshot_id < i.removed_in))
 ORDER BY f.file_id LIMIT %(most)s
"""


@dataclass(frozen=True, kw_only=True)
class Reader:
    """Where files are read, with what, and who is told of each piece of bytes."""

    store: ObjectStore
    engine: Rewriter
    layouts: Layouts
    spent: Callable[[int], None]


def files_to_read(*, part: Part | None, after: int) -> Iterator[DataFile]:
    """The files behind `after` that a kept snapshot of the part names, in the order of their ids."""
    given = {
        "tenant": part.tenant_id if part else None,
        "table": part.table_id if part else None,
        "from": part.from_snapshot if part else 0,
        "to": part.to_snapshot if part else Part(tenant_id="").to_snapshot,
    }
    while True:
        with connection.cursor() as cursor:
            cursor.execute(_NEXT, {**given, "after": after, "most": _PAGE})
            ids = [row[0] for row in cursor.fetchall()]
        if not ids:
            return
        yield from DataFile.objects.filter(file_id__in=ids).order_by("file_id")
        after = ids[-1]


def read_file(file: DataFile, *, reader: Reader) -> list[Finding]:
    """What of the file is not as the catalog says. A file that was given up meanwhile is as it should be.

    Raises what the store does, but for an object that it does not have.
    """
    wrong: dict[FindingKind, Mapping[str, JSON]] = {}
    try:
        with _local(file, reader) as path:
            wrong = dict(_disagreements(file, path, reader))
    except (ObjectNotFound, FileNotFoundError):
        wrong = {FindingKind.MISSING_FILE: {}}
    except (StoreUnavailable, OSError):
        if _must_be_there(file):
            raise
    if not wrong or not _must_be_there(file):
        return []
    effect = effect_of(file.file_id)
    return [
        Finding(
            kind=kind,
            tenant_id=file.tenant_id,
            table_id=file.table_id,
            file_id=file.file_id,
            object_key=file.path,
            detail={**facts, **effect},
        )
        for kind, facts in wrong.items()
    ]


def _must_be_there(file: DataFile) -> bool:
    """Whether the catalog names the object still: one that was collected while it was read may fail in any way."""
    return given_up([file.path]).get(file.path) is False


def _disagreements(file: DataFile, path: Path, reader: Reader) -> Iterator[tuple[FindingKind, Mapping[str, JSON]]]:
    size = path.stat().st_size
    if size != file.size_bytes:
        yield FindingKind.SIZE_MISMATCH, {"size_bytes": file.size_bytes, "size_in_store": size}
    digest = _digest(path, reader.spent)
    if digest != file.sha256:
        # Whatever else is wrong with these bytes, they are others: only what they say of themselves may help.
        yield FindingKind.CHECKSUM_MISMATCH, {"sha256": file.sha256, "sha256_in_store": digest, **_told(path)}
        return
    layout = reader.layouts.of(table_id=file.table_id, version=file.schema_version)
    if layout is None:
        return  # the catalog's own checks tell of that
    try:
        footer = read_footer(path)
        if frozenset(footer.field_ids) != layout.field_ids:
            expected, found = sorted(layout.field_ids), sorted(footer.field_ids)
            yield FindingKind.FOOTER_MISMATCH, {"field_ids": [*expected], "field_ids_in_file": [*found]}
            return
        if footer.rows != file.row_count:
            yield FindingKind.ROW_COUNT_MISMATCH, {"rows": file.row_count, "rows_in_file": footer.rows}
        proof, stats = reader.engine.described(path, layout.columns)
        yield from _of_rows(file, proof, stats)
        yield from _of_partition(file, path, layout, reader)
    except DataFileCorrupt as exc:
        yield FindingKind.FOOTER_MISMATCH, {"reason": exc.message}


def _told(path: Path) -> dict[str, JSON]:
    try:
        return {"readable": True, "rows_in_file": read_footer(path).rows}
    except DataFileCorrupt:
        return {"readable": False}


def _of_rows(
    file: DataFile, proof: ContentProof, stats: tuple[ColumnStats, ...]
) -> Iterator[tuple[FindingKind, Mapping[str, JSON]]]:
    recorded = ContentProof(count=file.row_count, hash_sum=int(file.content_hash))
    if file.content_algorithm == CONTENT_HASH_ALGORITHM and proof != recorded:
        hashes: dict[str, JSON] = {"content_hash": str(recorded.hash_sum), "content_hash_in_file": str(proof.hash_sum)}
        yield FindingKind.CONTENT_MISMATCH, {**hashes, "rows": recorded.count, "rows_in_file": proof.count}
    wrong: list[JSON] = [
        {"field_id": column.field_id, "recorded": said, "in_file": _shown(column)}
        for column in stats
        if (said := file.column_stats.get(str(column.field_id))) is not None and not _is_bound(said, column)
    ]
    if wrong:
        yield FindingKind.STATS_MISMATCH, {"columns": wrong}
    tokens = next((column.min, column.max) for column in stats if column.field_id == TOKEN_FIELD_ID)
    if tokens != (file.min_token, file.max_token):
        yield FindingKind.TOKEN_RANGE_MISMATCH, {"tokens_in_file": list(tokens)}


def _shown(column: ColumnStats) -> dict[str, JSON]:
    return {"min": column.min, "max": column.max, "null_count": column.null_count}


def _is_bound(said: Mapping[str, JSON], column: ColumnStats) -> bool:
    """Whether what the catalog says is right. It may know no bound where there is one."""
    return said.get("null_count") == column.null_count and all(
        bound is None or _same(bound, found)
        for bound, found in ((said.get("min"), column.min), (said.get("max"), column.max))
    )


def _same(recorded: JSON, found: JSON) -> bool:
    """Whether the two are one value. PostgreSQL's JSON writes a large float as an integer with all its digits."""
    if isinstance(found, float) and isinstance(recorded, int | float):
        return float(recorded) == found
    return recorded == found


def _of_partition(
    file: DataFile, path: Path, layout: Layout, reader: Reader
) -> Iterator[tuple[FindingKind, Mapping[str, JSON]]]:
    if not file.partition_values or not layout.partition:
        return
    kinds = {column.scan.name: column.kind for column in layout.columns}
    names = sorted({field.column for field in layout.partition})
    # As Arrow carries them: text.
    chosen = [
        f"CAST({quote_name(name)} AS VARCHAR) AS {quote_name(name)}"
        if kinds[name] in ("uuid", "json")
        else quote_name(name)
        for name in names
    ]
    scan = uniform_scan_sql([str(path)], [column.scan for column in layout.columns])
    for rows in reader.engine.batches(f"SELECT {', '.join(chosen)} FROM {scan}"):
        grouping = group_rows(rows, layout.partition)
        for group in range(len(grouping.sizes)):
            values = grouping.values(group)
            if values.keys() != file.partition_values.keys() or not all(
                _same(file.partition_values[name], value) for name, value in values.items()
            ):
                yield FindingKind.PARTITION_MISMATCH, {"recorded": file.partition_values, "in_file": values}
                return


def _digest(path: Path, spent: Callable[[int], None]) -> str:
    found = hashlib.sha256()
    with path.open("rb") as source:
        while chunk := source.read(_CHUNK):
            found.update(chunk)
            spent(len(chunk))
    return found.hexdigest()


@contextmanager
def _local(file: DataFile, reader: Reader) -> Iterator[Path]:
    """The object as a file of this machine; a fetched one is gone when the block ends."""
    if reader.store.local_root is not None:
        yield reader.store.local_root / file.path
        return
    path = reader.engine.directory / f"read-{file.file_id}.parquet"
    try:
        reader.store.fetch(file.path, path)
        yield path
    finally:
        path.unlink(missing_ok=True)
