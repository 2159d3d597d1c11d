"""Tables read back: their latest snapshot as a catalog describes it, its objects, and a query over all their rows."""

import random
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from catalog.models import TableDef
from catalog.readset import ReadFile, ReadTable, read_set
from catalog.scanning import scan_columns, scan_parts
from maintenance.job import Scope
from maintenance.rewrite import Rewriter
from storage.errors import ObjectNotFound
from storage.keyed import latest_sql
from storage.proof import ContentProof
from storage.reading import ScanColumn, parts_sql
from storage.store import ObjectStore


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A table in a tenant's latest snapshot."""

    tenant_id: str
    table: ReadTable

    @property
    def size_bytes(self) -> int:
        """Of its files."""
        return sum(file.size_bytes for file in self.table.files)

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.tenant_id}.{self.table.name}"


def sample_tables(*, scope: Scope, most: int) -> list[Sample]:
    """Up to so many tables of the scope, at random, as the connected catalog has them in their latest snapshots."""
    live = TableDef.objects.filter(dropped_in=None)
    if scope.tenant_id is not None:
        live = live.filter(tenant_id=scope.tenant_id)
    if scope.table_id is not None:
        live = live.filter(table_id=scope.table_id)
    found = list(live.values_list("tenant_id", "name"))
    return read_tables(random.sample(found, min(most, len(found))))


def read_tables(names: Iterable[tuple[str, str]]) -> list[Sample]:
    """These tables, given by tenant and name, as the connected catalog has them; those that it lacks are left out."""
    found = []
    for tenant_id, name in sorted(names):
        read = read_set(tenant_id=tenant_id, names=[name.lower()])
        found += [Sample(tenant_id=tenant_id, table=table) for table in (read.tables.values() if read else ())]
    return found


def missing_objects(samples: Iterable[Sample], store: ObjectStore) -> list[dict[str, object]]:
    """The files of the samples that the store does not have, or has in another size."""
    found: list[dict[str, object]] = []
    for sample in samples:
        for file in sample.table.files:
            try:
                size = store.stat(file.path).size
            except ObjectNotFound:
                found.append({"table": sample.name, "key": file.path, "what": "missing"})
                continue
            if size != file.size_bytes:
                found.append({"table": sample.name, "key": file.path, "what": "size"})
    return found


def contents(sample: Sample, *, store: ObjectStore, engine: Rewriter) -> ContentProof:
    """How many live rows the table has, and the sum of their hashes, as a query sees them."""
    table = sample.table
    keyed = bool(table.primary_key_cols)
    columns = scan_columns(table.schema, keyed=keyed)
    shown = [column for column in columns if not column.name.startswith("_duckmesh_")]
    with _local(table.files, store=store, directory=engine.directory) as files:
        if not keyed:
            return engine.proof(_scan(files, table, columns), shown)
        folded = [file for file in files if file.folded]
        fresh = [file for file in files if not file.folded]
        rows = latest_sql(
            folded=_scan(folded, table, columns) if folded or not fresh else None,
            fresh=_scan(fresh, table, columns) if fresh else None,
            columns=[column.name for column in shown],
            key=table.primary_key_cols,
        )
        return engine.proof(f"({rows})", shown)


def _scan(files: Sequence[ReadFile], table: ReadTable, columns: Sequence[ScanColumn]) -> str:
    paths = [(file.path, file.schema_version) for file in files]
    return parts_sql(scan_parts(paths, schema=table.schema, others=table.other_schemas), columns)


@contextmanager
def _local(files: Sequence[ReadFile], *, store: ObjectStore, directory: Path) -> Iterator[list[ReadFile]]:
    """The files, each with its path on this machine."""
    if store.local_root is not None:
        root = store.local_root
        yield [replace(file, path=str(root / file.path)) for file in files]
        return
    with tempfile.TemporaryDirectory(dir=directory) as fetched:
        local = []
        for number, file in enumerate(files):
            path = Path(fetched) / f"{number}.parquet"
            store.fetch(file.path, path)
            local.append(replace(file, path=str(path)))
        yield local
