"""Tables, writes, failures, expiries and restores, and a dict that is told the same: compared at every snapshot."""

import itertools
import random
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from catalog.change import TableChange
from catalog.errors import SnapshotExpired, SnapshotPinned
from catalog.evolution import evolve_table
from catalog.expire import expire_snapshots
from catalog.history import diff_snapshots, show_snapshot
from catalog.schema import ParsedColumn
from catalog.snapshots import resolve
from catalog.tables import drop_table, tables_at
from duckmesh.kernel.errors import JSON
from ingest import failed
from ingest.models import IngestEvent
from ingest.restores import order_restore
from tests.factories import make_table, make_tenant
from tests.lake import Lake, fail_oldest, write
from tests.tables import compact, rows_at

NAMES = ("plain", "keyed")
KEYS = ("a", "b", "c")


@dataclass(frozen=True)
class Operation:
    """What one record does; None is a delete. `values` are by column."""

    token: int
    key: str
    values: Mapping[str, JSON] | None


@dataclass
class Table:
    """A table as it is in one snapshot. What its older rows hold in `unsure` columns depends on their compaction."""

    number: int
    keyed: bool
    columns: list[str] = field(default_factory=list)
    operations: list[Operation] = field(default_factory=list)
    unsure: set[str] = field(default_factory=set)

    def rows(self) -> list[str]:
        shown = self.operations
        if self.keyed:
            latest: dict[str, Operation] = {}
            for operation in sorted(shown, key=lambda operation: operation.token):
                latest[operation.key] = operation
            shown = list(latest.values())
        rows = (
            {"id": each.key} | {name: each.values.get(name) for name in self.columns if name not in self.unsure}
            for each in shown
            if each.values is not None
        )
        return sorted(map(_spelled, rows))


@dataclass
class Entry:
    """An entry of the log: operations on a table made for some columns, or the restore of a snapshot."""

    event_id: int
    table: int = 0
    columns: tuple[str, ...] = ()
    operations: tuple[Operation, ...] = ()
    restores: int | None = None


State = dict[str, Table]


def _spelled(row: Mapping[str, Any]) -> str:
    return repr(sorted(row.items()))


class RestoredTenant(RuleBasedStateMachine):
    """Everything that changes a tenant's history, in any order; every kept snapshot stays what it was."""

    def __init__(self) -> None:
        super().__init__()
        self._directory = TemporaryDirectory(prefix="duckmesh-model-")
        self.lake = Lake(Path(self._directory.name))
        self.tenant_id = make_tenant()
        self.numbers = itertools.count(1)
        self.state: State = {}
        self.log: list[Entry] = []
        self.replayed: list[Entry] = []
        self.failed: list[Entry] = []
        self.kept: dict[int, State] = {}

    def teardown(self) -> None:
        with self._directory:
            for snapshot_id in self.kept:
                self.check(snapshot_id)

    @rule(name=st.sampled_from(NAMES))
    def create_or_drop(self, name: str) -> None:
        if name in self.state:
            drop_table(tenant_id=self.tenant_id, name=name, actor="model")
            del self.state[name]
            return
        keyed = name == "keyed"
        columns = [ParsedColumn(name="id", type="string", nullable=False), ParsedColumn(name="n", type="int64")]
        make_table(tenant_id=self.tenant_id, name=name, columns=columns, primary_key_cols=["id"] if keyed else [])
        self.state[name] = Table(number=next(self.numbers), keyed=keyed, columns=["n"])

    @precondition(lambda self: self.state)
    @rule(random=st.randoms(use_true_random=False))
    def change_columns(self, random: random.Random) -> None:
        name = random.choice(sorted(self.state))
        table = self.state[name]
        if len(table.columns) > 1 and random.random() < 0.5:
            gone = random.choice(table.columns)
            change = TableChange(drop=frozenset({gone}), compatibility_mode="none")
            table.columns.remove(gone)
        else:
            new = f"c{next(self.numbers)}"
            change = TableChange(add=(ParsedColumn(name=new, type="int64"),))
            table.columns.append(new)
        evolve_table(tenant_id=self.tenant_id, name=name, change=change, actor="model")

    @precondition(lambda self: self.state)
    @rule(random=st.randoms(use_true_random=False), at_once=st.booleans())
    def write(self, random: random.Random, at_once: bool) -> None:
        name = random.choice(sorted(self.state))
        table = self.state[name]
        records: list[dict[str, JSON]] = []
        done: list[tuple[str, Mapping[str, JSON] | None]] = []
        for _ in range(random.randint(1, 3)):
            key = random.choice(KEYS)
            values: dict[str, JSON] | None = {column: random.randint(0, 9) for column in table.columns}
            if table.keyed and random.random() < 0.3:
                values = None
            records.append(
                {"op": "insert" if values is not None else "delete", "payload": {"id": key} | (values or {})}
            )
            done.append((key, values))
        last = write(self.tenant_id, records, table=name).max_visibility_token
        event = IngestEvent.objects.get(tenant_id=self.tenant_id, last_token=last)
        operations = tuple(
            Operation(token=token, key=key, values=values)
            for token, (key, values) in enumerate(done, start=event.first_token)
        )
        self.log.append(
            Entry(
                event_id=event.event_id,
                table=table.number,
                columns=tuple(table.columns),
                operations=operations,
            )
        )
        if at_once:
            self.materialise()

    @precondition(lambda self: self.kept)
    @rule(random=st.randoms(use_true_random=False), at_once=st.booleans())
    def restore(self, random: random.Random, at_once: bool) -> None:
        chosen = random.choice(sorted(self.kept))
        ordered = order_restore(tenant_id=self.tenant_id, snapshot_id=chosen, actor="model")
        self.log.append(Entry(event_id=ordered.event_id, restores=chosen))
        if at_once:
            self.materialise()

    @precondition(lambda self: self.log or self.replayed)
    @rule()
    def materialise(self) -> None:
        while self.log or self.replayed:
            entry = (self.replayed or self.log).pop(0)
            if entry.restores is None:
                self.apply(entry)
            else:
                self.take_back(entry.restores)
        while IngestEvent.objects.filter(tenant_id=self.tenant_id, state="pending").exists():
            self.lake.materialize(self.tenant_id)

    def apply(self, entry: Entry) -> None:
        for table in self.state.values():
            if table.number == entry.table:
                for done in entry.operations:
                    values = done.values and {name: done.values.get(name) for name in table.columns}
                    table.operations.append(Operation(token=done.token, key=done.key, values=values))

    def take_back(self, snapshot_id: int) -> None:
        self.state = deepcopy(self.kept[snapshot_id])
        for table in self.state.values():
            for entry in [*self.failed, *self.log]:  # one that failed may be replayed
                more = [name for name in entry.columns if name not in table.columns]
                if entry.table == table.number:
                    table.columns += more
                    table.unsure.update(more)

    @precondition(lambda self: self.log or self.replayed)
    @rule()
    def fail_the_oldest(self) -> None:
        entry = (self.replayed or self.log).pop(0)
        assert fail_oldest(self.tenant_id) == entry.event_id
        if entry.restores is None:
            self.failed.append(entry)

    @precondition(lambda self: self.failed)
    @rule(random=st.randoms(use_true_random=False), again=st.booleans())
    def replay_or_discard(self, random: random.Random, again: bool) -> None:
        entry = self.failed.pop(random.randrange(len(self.failed)))
        if again:
            failed.replay(tenant_id=self.tenant_id, event_id=entry.event_id, actor="model")
            self.replayed = sorted([*self.replayed, entry], key=lambda each: each.operations[0].token)
        else:
            failed.discard(tenant_id=self.tenant_id, event_id=entry.event_id, actor="model")

    @precondition(lambda self: self.state)
    @rule(random=st.randoms(use_true_random=False))
    def compact(self, random: random.Random) -> None:
        assert not compact(self.lake, self.tenant_id, random.choice(sorted(self.state))).overtaken

    @precondition(lambda self: len(self.kept) > 1)
    @rule(random=st.randoms(use_true_random=False))
    def expire(self, random: random.Random) -> None:
        gone = random.choice(sorted(self.kept)[:-1])
        if any(entry.restores == gone for entry in self.log):
            with pytest.raises(SnapshotPinned):
                expire_snapshots(tenant_id=self.tenant_id, snapshot_ids=[gone])
            return
        expire_snapshots(tenant_id=self.tenant_id, snapshot_ids=[gone])
        del self.kept[gone]
        with pytest.raises(SnapshotExpired):
            resolve(tenant_id=self.tenant_id, snapshot_id=gone)

    @precondition(lambda self: self.kept)
    @rule(random=st.randoms(use_true_random=False))
    def look_back(self, random: random.Random) -> None:
        one, other = (random.choice(sorted(self.kept)) for _ in range(2))
        self.check(one)
        files = {
            at: sum(table.files for table in show_snapshot(tenant_id=self.tenant_id, snapshot_id=at).tables)
            for at in (one, other)
        }
        changes = diff_snapshots(tenant_id=self.tenant_id, from_id=one, to_id=other)
        grown = sum(change.added.files - change.removed.files for change in changes)
        assert files[other] - files[one] == grown

    @invariant()
    def latest_snapshot_is_what_the_dict_says(self) -> None:
        latest = resolve(tenant_id=self.tenant_id).snapshot_id
        if latest not in self.kept:
            self.kept[latest] = deepcopy(self.state)
            self.check(latest)

    def check(self, snapshot_id: int) -> None:
        state = self.kept[snapshot_id]
        assert tables_at(tenant_id=self.tenant_id, snapshot_id=snapshot_id).keys() == state.keys()
        for name, table in state.items():
            rows = rows_at(self.lake, self.tenant_id, name, snapshot_id=snapshot_id)
            assert all(row.keys() == {"id", *table.columns} for row in rows)
            seen = [{name: value for name, value in row.items() if name not in table.unsure} for row in rows]
            assert sorted(map(_spelled, seen)) == table.rows(), f"{name} in snapshot {snapshot_id}"
