"""One slice's files, read in the table's present schema, rewritten, proven, and described for the catalog."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from catalog.publish import NewFile
from catalog.scanning import scan_columns, scan_parts
from duckmesh.kernel.clock import now
from maintenance.errors import RewriteUnproven
from maintenance.inventory import Inventory
from maintenance.rewrite import Rewriter, Rewritten, TargetColumn
from maintenance.slices import Slice, SliceKind, piece_sql, slice_sql
from maintenance.tiers import TableFile
from storage.columns import OP_COLUMN, TOKEN_COLUMN, TOKEN_FIELD_ID
from storage.keys import data_file_key
from storage.proof import CONTENT_HASH_ALGORITHM, ContentProof
from storage.reading import parts_sql, quote_name
from storage.store import ObjectStore

_NEVER = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class Workbench:
    """The files of one table within reach of DuckDB."""

    inventory: Inventory
    store: ObjectStore
    engine: Rewriter

    @property
    def _columns(self) -> list[TargetColumn]:
        kinds = {c.name: "list" if c.type.startswith("list<") else c.type for c in self.inventory.table.schema.columns}
        ours = {OP_COLUMN: "int8", TOKEN_COLUMN: "int64"}
        scans = scan_columns(self.inventory.table.schema, keyed=bool(self.inventory.key))
        return [TargetColumn(scan=scan, kind=(kinds | ours)[scan.name]) for scan in scans]

    @property
    def sorts(self) -> bool:
        """Whether rows are sorted when files are merged."""
        return bool(self._sorted_by)

    @property
    def _sorted_by(self) -> tuple[str, ...]:
        """Nothing where the inputs, one after the other, are as good an order as any: that of time."""
        named = self.inventory.table.sort_cols or self.inventory.key
        return (*named, TOKEN_COLUMN) if named else ()

    def touched(self, folded: Sequence[TableFile], *, later: Sequence[TableFile]) -> Iterator[tuple[TableFile, bool]]:
        """Each of the folded files, and whether it holds a key with an operation in the later ones."""
        if not folded:
            return
        keys = ", ".join(map(quote_name, self.inventory.key))
        with self._local(later) as fresh:
            self.engine.rows(f"CREATE OR REPLACE TEMP TABLE later AS SELECT DISTINCT {keys} FROM {fresh}")
        try:
            for file in folded:
                with self._local([file]) as rows:
                    yield file, bool(self.engine.rows(f"SELECT 1 FROM {rows} SEMI JOIN later USING ({keys}) LIMIT 1"))
        finally:
            self.engine.rows("DROP TABLE later")

    def rewrite(self, item: Slice, *, target_bytes: int, before_each: Callable[[], None]) -> Iterator[Rewritten]:
        """The files that replace the slice's inputs, one after the other, none of them empty.

        `before_each` is called before each is computed. Raises `RewriteUnproven` instead of the last if together they
        do not hold the rows that they must.
        """
        columns = self._columns
        scans = [column.scan for column in columns]
        key = self.inventory.key
        gathers = item.kind in (SliceKind.GATHER, SliceKind.SETTLE)
        pieces = -(-sum(file.size_bytes for file in item.inputs) // target_bytes) if gathers else 1
        with self._local(sorted(item.inputs, key=_age)) as inputs, self._local(item.later) as later:
            for number in range(pieces):
                before_each()
                sql = slice_sql(
                    item.kind,
                    inputs=piece_sql(inputs, key=key, number=number, pieces=pieces),
                    later=later,
                    columns=[scan.name for scan in scans],
                    key=key,
                )
                expected = self._recorded(item)
                if expected is None:
                    expected = self.engine.proof(sql.expected, scans)
                made = self.engine.write(
                    sql.select,
                    name=f"{number}.parquet",
                    columns=columns,
                    order_by=self._sorted_by,
                    bytes_of_a_row=item.input_bytes / sum(file.row_count for file in item.inputs),
                )
                held = ContentProof(count=0, hash_sum=0) if made is None else made.proof
                if held != expected:
                    raise RewriteUnproven(
                        "A rewritten file does not hold the rows of the files it was to replace.",
                        table_id=self.inventory.table.table_id,
                        expected_rows=expected.count,
                        rows=held.count,
                    )
                if made is not None:
                    yield made

    def put(self, made: Rewritten, *, item: Slice, number: int) -> NewFile:
        """The file is durable in the store, under a new key; what the catalog is to record of it."""
        table = self.inventory.table
        partitions = [file.partition_values for file in item.inputs]
        partition = partitions[0] if all(values == partitions[0] for values in partitions) else {}
        key = data_file_key(
            tenant_id=self.inventory.tenant_id,
            table_name=table.name,
            at=now(),
            snapshot_or_epoch=self.inventory.snapshot_id,
            seq=number,
            partition=partition,
        )
        self.store.put_file(key, made.path)
        tokens = next(column for column in made.columns if column.field_id == TOKEN_FIELD_ID)
        assert isinstance(tokens.min, int)
        assert isinstance(tokens.max, int)
        starts = [file.min_event_time for file in item.inputs if file.min_event_time]
        ends = [file.max_event_time for file in item.inputs if file.max_event_time]
        return NewFile(
            table_id=table.table_id,
            path=key,
            row_count=made.proof.count,
            size_bytes=made.size_bytes,
            sha256=made.sha256,
            content_algorithm=CONTENT_HASH_ALGORITHM,
            content_hash=made.proof.hash_sum,
            schema_version=table.schema.version,
            column_stats={
                str(column.field_id): {"min": column.min, "max": column.max, "null_count": column.null_count}
                for column in made.columns
            },
            partition_values=partition,
            min_token=tokens.min,
            max_token=tokens.max,
            min_event_time=min(starts, default=None),
            max_event_time=max(ends, default=None),
            level=item.level,
            folded=item.folded,
        )

    def _recorded(self, item: Slice) -> ContentProof | None:
        """What the catalog says that the inputs hold together, where it speaks of the rows as they will be written."""
        present = {self.inventory.table.schema.version}
        algorithms = {file.content_algorithm for file in item.inputs}
        if item.kind != SliceKind.MERGE or algorithms != {CONTENT_HASH_ALGORITHM}:
            return None
        if {file.schema_version for file in item.inputs} != present:
            return None
        return ContentProof(
            count=sum(file.row_count for file in item.inputs),
            hash_sum=sum(file.content_hash for file in item.inputs),
        )

    @contextmanager
    def _local(self, files: Sequence[TableFile]) -> Iterator[str]:
        """The files as a FROM-able expression; fetched ones are gone when the block ends."""
        fetched: list[Path] = []
        paths: list[tuple[str, int]] = []
        root = self.store.local_root
        try:
            for file in files:
                path = self.engine.directory / f"input-{file.file_id}.parquet" if root is None else root / file.path
                if root is None:
                    fetched.append(path)
                    self.store.fetch(file.path, path)
                paths.append((str(path), file.schema_version))
            parts = scan_parts(paths, schema=self.inventory.table.schema, others=self.inventory.schemas)
            yield parts_sql(parts, [column.scan for column in self._columns])
        finally:
            for path in fetched:
                path.unlink(missing_ok=True)


def _age(file: TableFile) -> tuple[datetime, int, int]:
    """What orders files by the time of their events, and by that of their arrival where there is none."""
    return (file.min_event_time or _NEVER, file.min_token, file.file_id)
