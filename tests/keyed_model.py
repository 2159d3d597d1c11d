"""A keyed table and a dict that is told the same: a state machine that compares them at every snapshot."""

import itertools
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from django.db.models.functions import Now
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from catalog.change import TableChange
from catalog.evolution import evolve_table
from catalog.schema import ParsedColumn
from catalog.snapshots import resolve
from duckmesh.kernel.errors import JSON
from ingest import bus, failed
from ingest.models import IngestClaimBatch, IngestEvent
from tests.factories import make_table, make_tenant
from tests.lake import CLAIM, Lake, fail_oldest, write
from tests.tables import compact, rows_at

KEYS = ("a", "A", "")
VALUES: dict[str, st.SearchStrategy[JSON]] = {
    "int32": st.none() | st.integers(-3, 3),
    "int64": st.none() | st.integers(-3, 3) | st.just(2**60),
    "float64": st.none() | st.sampled_from([0.5, 2.0]),
    "string": st.none() | st.text("xy", max_size=2),
}
WIDER = {"int32": ("int64", "float64"), "int64": (), "float64": (), "string": ()}
POLICIES: tuple[dict[str, Any], ...] = (
    {},
    {},
    {"min_fold_files": 1, "dead_share": 0.0, "min_input_files": 3},
    {"min_fold_files": 3, "dead_share": 0.5},
    {"max_fresh_files": 2, "min_fold_files": 100},
    {"min_fold_files": 1, "dead_share": 0.0, "target_file_bytes": 1_000},
)


@dataclass
class Column:
    """A column, known by its number whatever it is called."""

    number: int
    name: str
    kind: str


@dataclass(frozen=True)
class Operation:
    """What one record does. `values` are by number of the column; None is a delete."""

    key: str
    values: Mapping[int, JSON] | None


@dataclass
class Write:
    """A request: its operations hold consecutive tokens from `first_token`."""

    event_id: int
    first_token: int
    operations: list[Operation]
    state: str = "pending"


@dataclass
class Model:
    """What the table must show."""

    columns: list[Column] = field(default_factory=list)
    writes: list[Write] = field(default_factory=list)

    def rows(self) -> list[dict[str, Any]]:
        """The last operation of each key by token, in the present columns; those that are visible."""
        latest: dict[str, Operation] = {}
        for done in sorted(self.writes, key=lambda done: done.first_token):
            if done.state == "visible":
                latest |= {operation.key: operation for operation in done.operations}
        return [
            {"id": operation.key} | {c.name: operation.values.get(c.number) for c in self.columns}
            for _, operation in sorted(latest.items())
            if operation.values is not None
        ]

    def of(self, state: str) -> list[Write]:
        return [done for done in self.writes if done.state == state]


class KeyedTable(RuleBasedStateMachine):
    """Writes, failures, replays, compactions and schema changes in any order; every snapshot stays what it was."""

    def __init__(self) -> None:
        super().__init__()
        self._directory = TemporaryDirectory(prefix="duckmesh-model-")
        self.lake = Lake(Path(self._directory.name))
        self.tenant_id = make_tenant()
        self.model = Model()
        self.numbers = itertools.count(1)
        self.snapshots: dict[int, list[dict[str, Any]]] = {}

    def teardown(self) -> None:
        for snapshot_id in self.snapshots:
            self.check(snapshot_id)
        self._directory.cleanup()

    @initialize()
    def create(self) -> None:
        columns = [ParsedColumn(name="id", type="string", nullable=False)]
        for kind in ("int32", "string"):
            column = self.new_column(kind)
            columns.append(ParsedColumn(name=column.name, type=kind))
        make_table(tenant_id=self.tenant_id, columns=columns, primary_key_cols=["id"])

    def new_column(self, kind: str) -> Column:
        number = next(self.numbers)
        self.model.columns.append(Column(number=number, name=f"c{number}", kind=kind))
        return self.model.columns[-1]

    @rule(
        data=st.data(),
        keys=st.lists(st.sampled_from(KEYS), min_size=1, max_size=4),
        fate=st.sampled_from(["visible", "visible", "pending", "failed"]),
    )
    def write(self, data: st.DataObject, keys: list[str], fate: str) -> None:
        records: list[dict[str, JSON]] = []
        operations = []
        for key in keys:
            op = data.draw(st.sampled_from(["insert", "upsert", "delete"]))
            values = {column.number: data.draw(VALUES[column.kind]) for column in self.model.columns}
            payload = {"id": key} | {c.name: values[c.number] for c in self.model.columns if op != "delete"}
            records.append({"op": op, "payload": payload})
            operations.append(Operation(key=key, values=None if op == "delete" else values))
        last = write(self.tenant_id, records).max_visibility_token
        event_id = IngestEvent.objects.get(tenant_id=self.tenant_id, last_token=last).event_id
        first = last - len(keys) + 1
        self.model.writes.append(Write(event_id=event_id, first_token=first, operations=operations))
        if fate == "visible":
            self.materialise()
        elif fate == "failed":
            self.fail_the_oldest()

    @precondition(lambda self: self.model.of("pending"))
    @rule()
    def materialise(self) -> None:
        self.lake.materialize(self.tenant_id)
        for done in self.model.of("pending"):
            done.state = "visible"

    @precondition(lambda self: self.model.of("pending"))
    @rule()
    def fail_the_oldest(self) -> None:
        event_id = fail_oldest(self.tenant_id)
        (done,) = (done for done in self.model.writes if done.event_id == event_id)
        done.state = "failed"

    @precondition(lambda self: self.model.of("failed"))
    @rule(random=st.randoms(use_true_random=False), at_once=st.booleans())
    def replay(self, random: random.Random, at_once: bool) -> None:
        done = random.choice(self.model.of("failed"))
        failed.replay(tenant_id=self.tenant_id, event_id=done.event_id, actor="model")
        done.state = "pending"
        if at_once:
            self.materialise()

    @precondition(lambda self: self.model.of("failed"))
    @rule(random=st.randoms(use_true_random=False))
    def discard(self, random: random.Random) -> None:
        done = random.choice(self.model.of("failed"))
        failed.discard(tenant_id=self.tenant_id, event_id=done.event_id, actor="model")
        done.state = "discarded"

    @precondition(lambda self: self.model.of("pending"))
    @rule()
    def worker_dies(self) -> None:
        claim = bus.claim(tenant_id=self.tenant_id, consumer_id="model", policy=CLAIM)
        assert claim is not None
        held = IngestClaimBatch.objects.filter(batch_id=claim.batch_id)
        held.update(lease_until=Now() - timedelta(milliseconds=1))
        bus.requeue_expired()
        IngestEvent.objects.filter(event_id__in=[e.event_id for e in claim.envelopes]).update(attempts=0)

    @rule(policy=st.sampled_from(POLICIES))
    def compact(self, policy: dict[str, Any]) -> None:
        assert not compact(self.lake, self.tenant_id, **policy).overtaken

    def change(self, change: TableChange) -> None:
        evolve_table(tenant_id=self.tenant_id, name="events", change=change, actor="model")

    @rule(random=st.randoms(use_true_random=False))
    def change_the_schema(self, random: random.Random) -> None:
        columns = self.model.columns
        wider = [column for column in columns if WIDER[column.kind]]
        steps = [self.add] + [self.rename, self.drop] * bool(columns) + [self.widen] * bool(wider)
        random.choice(steps)(random)

    def add(self, random: random.Random) -> None:
        column = self.new_column(random.choice(sorted(VALUES)))
        self.change(TableChange(add=(ParsedColumn(name=column.name, type=column.kind),)))

    def rename(self, random: random.Random) -> None:
        column = random.choice(self.model.columns)
        name = f"c{next(self.numbers)}"
        self.change(TableChange(rename={column.name: name}, compatibility_mode="none"))
        column.name = name

    def drop(self, random: random.Random) -> None:
        column = random.choice(self.model.columns)
        self.change(TableChange(drop=frozenset({column.name}), compatibility_mode="none"))
        self.model.columns.remove(column)

    def widen(self, random: random.Random) -> None:
        column = random.choice([column for column in self.model.columns if WIDER[column.kind]])
        column.kind = random.choice(WIDER[column.kind])
        self.change(TableChange(widen={column.name: column.kind}))

    @rule(random=st.randoms(use_true_random=False))
    def look_back(self, random: random.Random) -> None:
        if self.snapshots:
            self.check(random.choice(sorted(self.snapshots)))

    @invariant()
    def latest_snapshot_shows_the_last_operations(self) -> None:
        if not self.model.columns and not self.model.writes:
            return
        latest = resolve(tenant_id=self.tenant_id).snapshot_id
        if latest not in self.snapshots:
            self.snapshots[latest] = self.model.rows()
            self.check(latest)

    def check(self, snapshot_id: int) -> None:
        rows = rows_at(self.lake, self.tenant_id, snapshot_id=snapshot_id)
        assert sorted(rows, key=lambda row: row["id"]) == self.snapshots[snapshot_id], f"snapshot {snapshot_id}"
