"""The write path in one process: accept, materialise, and read back what a snapshot holds, with a real local store."""

import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

import pyarrow.parquet as pq

from catalog.manifests import files_at
from catalog.snapshots import resolve
from catalog.tables import TableInfo, live_tables, tables_at
from duckmesh.kernel.errors import JSON
from ingest import bus
from ingest.accept import Accepted, AcceptPolicy, Staging, accept
from ingest.backlog import FlushPolicy
from ingest.bus import ClaimPolicy
from ingest.decode.batch import DecodedBatch, DecodeLimits
from ingest.decode.json_body import decode_json
from ingest.decode.spool import SpoolPolicy
from ingest.materializer import MaterializePolicy, materialize_tenant
from ingest.publishing import Publication, WriteLimits
from ingest.writing import WritePolicy
from storage.local import LocalStore
from storage.store import ObjectStore

SPOOL = SpoolPolicy(directory=Path(tempfile.gettempdir()), memory_bytes=2**23)
LIMITS = DecodeLimits(max_records=10_000, max_visibility_timeout=timedelta(minutes=1), spool=SPOOL)
CLAIM = ClaimPolicy(
    lease=timedelta(seconds=30),
    max_bytes=2**27,
    max_envelopes=1_000,
    max_attempts=3,
    attempt_limit=timedelta(minutes=5),
    retry_pause=timedelta(0),
)
NO_LIMITS = WriteLimits()
AT_ONCE = FlushPolicy(interval=timedelta(0), size_bytes=1)

Record = Mapping[str, JSON]


def record(identity: str, *, n: JSON = 0, key: str | None = "", op: str | None = None) -> dict[str, JSON]:
    """A record for the tables of `factories`; its idempotency key is its identity unless another is given, or None."""
    made: dict[str, JSON] = {"payload": {"id": identity, "n": n}}
    if key is not None:
        made["idempotency_key"] = key or identity
    if op is not None:
        made["op"] = op
    return made


def decoder(records: Sequence[Record], *, request_key: str | None = None) -> Callable[[TableInfo], DecodedBatch]:
    """What `accept` needs of a request: its JSON body, decoded for whatever table it meets."""
    body = json.dumps({"records": list(records)}).encode()

    def decode(table: TableInfo) -> DecodedBatch:
        return decode_json(body, shape=table.shape, limits=LIMITS, request_key=request_key)

    return decode


def write(
    tenant_id: str,
    records: Sequence[Record],
    *,
    table: str = "events",
    request_key: str | None = None,
    limits: WriteLimits = NO_LIMITS,
    staging: Staging | None = None,
) -> Accepted:
    """The records, accepted."""
    return accept(
        tenant_id=tenant_id,
        table=table,
        decode=decoder(records, request_key=request_key),
        policy=AcceptPolicy(limits=limits, staging=staging),
    )


def publication(tenant_id: str, records: Sequence[Record], *, table: str = "events") -> Publication:
    """The records, decoded and ready to be published."""
    tables = live_tables(tenant_id=tenant_id)
    batch = decoder(records)(tables.find(table))
    return Publication(
        tenant_id=tenant_id,
        table=tables.find(table),
        ddl_version=tables.ddl_version,
        batch=batch,
        payload=batch.payload.getvalue(),
        staged_id=None,
        size_bytes=batch.payload.size_bytes,
    )


def write_ids(tenant_id: str, *identities: str, table: str = "events") -> Accepted:
    """One record for each identity, in one request."""
    return write(tenant_id, [record(identity) for identity in identities], table=table)


def fail_oldest(tenant_id: str) -> int:
    """The tenant's oldest pending envelope has failed for the last time; its id."""
    claim = bus.claim(tenant_id=tenant_id, consumer_id="test", policy=replace(CLAIM, max_envelopes=1))
    assert claim is not None
    bus.nack(claim, error="Broken", reason="a test", policy=replace(CLAIM, max_attempts=1))
    return claim.envelopes[0].event_id


@dataclass(frozen=True)
class Lake:
    """A store and the policies of a worker; `materialize` is one task's worth of work."""

    root: Path
    claim: ClaimPolicy = CLAIM
    slice_bytes: int = 2**26
    max_partitions: int = 64
    store: ObjectStore = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "store", LocalStore(root=self.root / "objects"))

    @property
    def policy(self) -> MaterializePolicy:
        write = WritePolicy(
            scratch=self.root / "scratch", slice_bytes=self.slice_bytes, max_partitions=self.max_partitions
        )
        return MaterializePolicy(flush=AT_ONCE, claim=self.claim, write=write)

    def materialize(
        self, tenant_id: str, *, store: ObjectStore | None = None, seconds: float = 20, **claim: int | timedelta
    ) -> int:
        """The tenant's pending writes are visible, as far as one task comes; how many snapshots that took."""
        # replace() refuses names that a ClaimPolicy does not have, which mypy cannot see.
        policy = replace(self.policy, claim=replace(self.claim, **claim))  # type: ignore[arg-type]
        return materialize_tenant(
            tenant_id=tenant_id,
            wanted=0,
            store=store or self.store,
            policy=policy,
            consumer_id="test",
            until=time.monotonic() + seconds,
        )

    def rows(self, tenant_id: str, table: str = "events", *, snapshot_id: int | None = None) -> dict[str, int]:
        """How often each identity is in the table, in this snapshot or the latest."""
        return dict(Counter(identity for identity, _ in self.tokens(tenant_id, table, snapshot_id=snapshot_id)))

    def tokens(self, tenant_id: str, table: str = "events", *, snapshot_id: int | None = None) -> list[tuple[str, int]]:
        """Identity and token of each row, in the order of the tokens. Every file is held against its catalog row."""
        at = resolve(tenant_id=tenant_id, snapshot_id=snapshot_id).snapshot_id
        info = tables_at(tenant_id=tenant_id, snapshot_id=at)[table.lower()]
        found: list[tuple[str, int]] = []
        for file in files_at(tenant_id=tenant_id, snapshot_id=at, table_ids=[info.table_id])[info.table_id]:
            rows = pq.read_table(self.root / "objects" / file.path)
            tokens = rows["_duckmesh_token"].to_pylist()
            assert (rows.num_rows, min(tokens), max(tokens)) == (file.row_count, file.min_token, file.max_token)
            found += zip(rows["id"].to_pylist(), tokens, strict=True)
        return sorted(found, key=lambda row: row[1])
