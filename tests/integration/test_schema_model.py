"""A table that changes while it is written, against a model of it: every kept snapshot is read in its own schema."""

import json
import tempfile
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from catalog.change import parse_change
from catalog.errors import SchemaIncompatible
from catalog.evolution import evolve_table
from catalog.schema import ParsedColumn
from catalog.snapshots import resolve
from tests.factories import make_table, make_tenant
from tests.lake import Lake, write
from tests.reading import read_rows
from tests.shown import expected, same

pytestmark = pytest.mark.django_db(transaction=True)

NAMES = ["a", "b", "c", "select", "Order"]
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "bool": st.booleans(),
    "int32": st.integers(-(2**31), 2**31 - 1),
    "int64": st.integers(-(2**63), 2**63 - 1),
    "float32": st.floats(width=32, allow_nan=False, allow_infinity=False),
    "float64": st.floats(-1e15, 1e15, allow_nan=False),
    "decimal(10,0)": st.integers(-(10**10) + 1, 10**10 - 1).map(Decimal),
    "decimal(30,2)": st.integers(-(10**25), 10**25).map(lambda cents: Decimal(cents).scaleb(-2)),
    "string": st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    "list<int32>": st.lists(st.none() | st.integers(-(2**31), 2**31 - 1), max_size=3),
    "list<int64>": st.lists(st.none() | st.integers(-(2**63), 2**63 - 1), max_size=3),
    "json": st.sampled_from(['{"k":[1,null]}', '"x"', "7", "[]"]),
}
WIDER = {
    "int32": ["int64", "float64", "decimal(10,0)", "decimal(30,2)"],
    "int64": ["decimal(30,2)"],
    "float32": ["float64"],
    "decimal(10,0)": ["decimal(30,2)"],
    "list<int32>": ["list<int64>"],
}


@dataclass
class Modelled:
    """A column: its name and type now. Rows hold their values by the column itself, which a rename leaves alone."""

    name: str
    type: str


@dataclass
class Row:
    """A row: its number, and each value with the type that its column had when it was written."""

    number: int
    values: dict[int, tuple[str, Any]] = field(default_factory=dict)


class ChangingTable(RuleBasedStateMachine):
    """A table with a column `number` that stays, and others that come, go and change."""

    @initialize()
    def begin(self) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.lake = Lake(root=Path(self.directory.name))
        self.tenant_id = make_tenant()
        make_table(tenant_id=self.tenant_id, columns=[ParsedColumn(name="number", type="int64", nullable=False)])
        self.columns: list[Modelled] = []
        self.visible: list[Row] = []
        self.pending: list[Row] = []
        self.written = 0
        self.kept: dict[int, list[dict[str, Any]]] = {}

    def teardown(self) -> None:
        if hasattr(self, "directory"):
            self.directory.cleanup()

    @rule(data=st.data())
    def write(self, data: st.DataObject) -> None:
        records = []
        for _ in range(data.draw(st.integers(1, 3), label="rows")):
            self.written += 1
            row = Row(number=self.written)
            payload: dict[str, Any] = {"number": row.number}
            for column in self.columns:
                value = data.draw(st.none() | VALUES[column.type], label=column.name)
                if value is not None:
                    row.values[id(column)] = (column.type, value)
                    payload[column.name] = _sent(value, column.type)
            records.append({"payload": payload})
            self.pending.append(row)
        write(self.tenant_id, records)

    @rule()
    def materialize(self) -> None:
        self.lake.materialize(self.tenant_id)
        self.visible += self.pending
        self.pending = []

    @rule(name=st.sampled_from(NAMES), type_=st.sampled_from(sorted(VALUES)))
    def add(self, name: str, type_: str) -> None:
        if self._change(taken=name, add=[{"name": name, "type": type_}]):
            self.columns.append(Modelled(name=name, type=type_))

    @precondition(lambda self: self.columns)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        column = data.draw(st.sampled_from(self.columns))
        self._change(drop=[column.name.upper()])
        self.columns = [other for other in self.columns if other is not column]
        self.dropped = [*getattr(self, "dropped", []), column]  # its id() is never another column's

    @precondition(lambda self: self.columns)
    @rule(data=st.data(), name=st.sampled_from(NAMES))
    def rename(self, data: st.DataObject, name: str) -> None:
        column = data.draw(st.sampled_from(self.columns))
        if name != column.name and self._change(taken=name, rename={column.name: name}):
            column.name = name

    @precondition(lambda self: len(self.columns) > 1)
    @rule(data=st.data())
    def swap(self, data: st.DataObject) -> None:
        one, other = data.draw(st.permutations(self.columns))[:2]
        assert self._change(rename={one.name: other.name, other.name: one.name})
        one.name, other.name = other.name, one.name

    @precondition(lambda self: self.columns)
    @rule(data=st.data())
    def widen(self, data: st.DataObject) -> None:
        column = data.draw(st.sampled_from(self.columns))
        wider = data.draw(st.sampled_from([*WIDER.get(column.type, []), "json"]))
        assert self._change(widen={column.name: wider}, compatibility_mode="none")
        column.type = wider

    @rule()
    def keep(self) -> None:
        self.kept[resolve(tenant_id=self.tenant_id).snapshot_id] = self._shown()

    @invariant()
    def every_kept_snapshot_is_as_it_was(self) -> None:
        if not hasattr(self, "kept"):
            return
        assert self._read(None) == self._shown()

    @rule()
    def look_back(self) -> None:
        for snapshot_id, rows in self.kept.items():
            assert self._read(snapshot_id) == rows

    def _change(self, *, taken: str = "", **body: Any) -> bool:
        """Whether the change was made; it must be refused if the table has a column of the name already."""
        change = parse_change(body)
        if taken in [column.name for column in self.columns]:
            with pytest.raises(SchemaIncompatible):
                evolve_table(tenant_id=self.tenant_id, name="events", change=change, actor="test")
            return False
        evolve_table(tenant_id=self.tenant_id, name="events", change=change, actor="test")
        return True

    def _shown(self) -> list[dict[str, Any]]:
        return [
            {"number": same(row.number)} | {column.name: same(_seen(row, column)) for column in self.columns}
            for row in self.visible
        ]

    def _read(self, snapshot_id: int | None) -> list[dict[str, Any]]:
        rows = read_rows(self.lake, self.tenant_id, "SELECT * FROM events ORDER BY number", snapshot_id=snapshot_id)
        return [{name: same(value) for name, value in row.items()} for row in rows]


def _sent(value: Any, type_: str) -> Any:
    if type_ == "json":
        return json.loads(value)
    return str(value) if isinstance(value, Decimal) else value


def _seen(row: Row, column: Modelled) -> Any:
    written, value = row.values.get(id(column), (column.type, None))
    return expected(value, written, column.type)


def test_a_changing_table_is_what_the_model_says() -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]  # hypothesis declares no types here
        ChangingTable,
        settings=settings(
            max_examples=12, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
