"""Everything that adds, replaces, keeps and deletes files, in any order, and dicts that are told the same.

Time passes by moving what the catalog has recorded. Files hold the names of their rows instead of Parquet: what a
snapshot shows is what its objects hold. Beside the snapshots that are kept there are queries that are running, backups,
and attempts that have written an object and not yet named it; none of them may ever miss a file.
"""

import itertools
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from catalog.errors import PublishConflict, SnapshotExpired
from catalog.holds import narrow_file_hold, release_file_hold, take_file_hold
from catalog.manifests import files_at
from catalog.models import FileHold, Snapshot, SnapshotFile
from catalog.pins import pin_snapshot, unpin_snapshot
from catalog.publish import NewFile, publish_snapshot
from catalog.snapshots import resolve
from catalog.tables import drop_table, live_tables, tables_at
from duckmesh.kernel.clock import now
from ingest.restores import order_restore
from maintenance.errors import RunLost
from maintenance.job import Scope
from maintenance.ladder import RetentionPolicy
from tests.ages import advance
from tests.factories import make_table, make_tenant
from tests.keeping import GRACE, ONLY_LATEST, check_reachable, named, new_file, put_orphan, retain, stored
from tests.lake import Lake
from tests.progress import Recorder

NAMES = ("one", "two")
ATTEMPT = timedelta(minutes=15)
LONGEST_QUERY = timedelta(minutes=5)
STEPS = [timedelta(minutes=minutes) for minutes in (1, 6, 20, 31, 25 * 60)]

State = dict[str, list[str]]


@dataclass(kw_only=True)
class Reader:
    """Whoever needs these objects until that time of the model; None: until it says so."""

    keys: frozenset[str]
    until: timedelta | None


@dataclass(kw_only=True)
class Attempt:
    """A file that was written at that time, for a table, with these rows."""

    file: NewFile
    table: str
    rows: list[str]
    began: timedelta


@dataclass
class Backup:
    """A hold, and what its owner read."""

    hold_id: int
    keys: frozenset[str] = field(default_factory=frozenset)


class CollectedTenant(RuleBasedStateMachine):
    """See the module."""

    def __init__(self) -> None:
        super().__init__()
        self._directory = TemporaryDirectory(prefix="duckmesh-gc-")
        self.lake = Lake(Path(self._directory.name))
        self.tenant_id = make_tenant()
        self.scope = Scope(tenant_id=self.tenant_id)
        self.numbers = itertools.count(1)
        self.time = timedelta(0)
        self.state: State = {}
        self.kept: dict[int, State] = {0: {}}
        self.restores: list[int] = []
        self.pins: dict[str, tuple[int, timedelta | None]] = {}
        self.readers: list[Reader] = []
        self.backups: list[Backup] = []
        self.attempts: list[Attempt] = []

    def teardown(self) -> None:
        try:
            self.look()
            self.settle()
        finally:
            self._directory.cleanup()

    # What changes the history

    @initialize(writes=st.integers(min_value=1, max_value=3))
    def begin(self, writes: int) -> None:
        """A table with files, so that no step is spent on making one."""
        self.create_or_drop(NAMES[0])
        self.latest_snapshot_is_what_the_dict_says()
        for _ in range(writes):
            rows = [f"r{next(self.numbers)}"]
            self._publish(Attempt(file=self._file(NAMES[0], rows), table=NAMES[0], rows=rows, began=self.time))
            self.latest_snapshot_is_what_the_dict_says()

    @rule(name=st.sampled_from([*NAMES, NAMES[1], NAMES[1]]))
    def create_or_drop(self, name: str) -> None:
        if name in self.state:
            drop_table(tenant_id=self.tenant_id, name=name, actor="model")
            del self.state[name]
        else:
            make_table(tenant_id=self.tenant_id, name=name)
            self.state[name] = []

    @precondition(lambda self: self.state)
    @rule(random=st.randoms(use_true_random=False), at_once=st.booleans())
    def write(self, random: random.Random, at_once: bool) -> None:
        name = random.choice(sorted(self.state))
        rows = [f"r{next(self.numbers)}" for _ in range(random.randint(1, 3))]
        attempt = Attempt(file=self._file(name, rows), table=name, rows=rows, began=self.time)
        if at_once:
            self._publish(attempt)
        else:
            self.attempts.append(attempt)

    @precondition(lambda self: self.attempts)
    @rule(random=st.randoms(use_true_random=False))
    def end_an_attempt(self, random: random.Random) -> None:
        """It publishes, if its time is not up; otherwise its object is an orphan."""
        attempt = self.attempts.pop(random.randrange(len(self.attempts)))
        if self.time - attempt.began < ATTEMPT:
            self._publish(attempt)

    @precondition(lambda self: self.state)
    @rule(random=st.randoms(use_true_random=False))
    def compact(self, random: random.Random) -> None:
        name = random.choice(sorted(self.state))
        table_id = live_tables(tenant_id=self.tenant_id).find(name).table_id
        live = list(SnapshotFile.objects.filter(table_id=table_id, removed_in=None).select_related("file"))
        inputs = random.sample(live, k=min(len(live), 3))
        if inputs:
            rows = [row for item in inputs for row in self._rows(item.file.path)]
            publish_snapshot(
                tenant_id=self.tenant_id,
                kind=Snapshot.Kind.COMPACTION,
                actor="model",
                added=[self._file(name, rows)],
                removed=[item.file_id for item in inputs],
            )

    @precondition(lambda self: self.kept)
    @rule(random=st.randoms(use_true_random=False), at_once=st.booleans())
    def restore(self, random: random.Random, at_once: bool) -> None:
        chosen = random.choice(sorted(self.kept))
        order_restore(tenant_id=self.tenant_id, snapshot_id=chosen, actor="model")
        self.restores.append(chosen)
        if at_once:
            self.materialise()

    @precondition(lambda self: self.restores)
    @rule()
    def materialise(self) -> None:
        for chosen in self.restores:
            self.state = {name: list(rows) for name, rows in self.kept[chosen].items()}
        assert self.lake.materialize(self.tenant_id) == len(self.restores)
        latest = resolve(tenant_id=self.tenant_id).snapshot_id
        for behind, chosen in enumerate(reversed(self.restores)):
            self.kept[latest - behind] = {name: list(rows) for name, rows in self.kept[chosen].items()}
        self.restores = []

    # What keeps files

    @precondition(lambda self: self.kept)
    @rule(random=st.randoms(use_true_random=False), minutes=st.sampled_from([None, 3, 40]))
    def pin_or_unpin(self, random: random.Random, minutes: int | None) -> None:
        if self.pins and random.random() < 0.4:
            name = random.choice(sorted(self.pins))
            unpin_snapshot(tenant_id=self.tenant_id, name=name)
            del self.pins[name]
            return
        name, chosen = f"p{next(self.numbers)}", random.choice(sorted(self.kept))
        span = None if minutes is None else timedelta(minutes=minutes)
        expires_at = None if span is None else now() + span
        pin_snapshot(tenant_id=self.tenant_id, snapshot_id=chosen, name=name, actor="model", expires_at=expires_at)
        self.pins[name] = (chosen, None if span is None else self.time + span)

    @precondition(lambda self: self.kept)
    @rule(random=st.randoms(use_true_random=False))
    def begin_a_query(self, random: random.Random) -> None:
        keys = self._keys(random.choice(sorted(self.kept)[-3:]))
        self.readers.append(Reader(keys=keys, until=self.time + LONGEST_QUERY))

    @rule(random=st.randoms(use_true_random=False))
    def begin_or_end_a_backup(self, random: random.Random) -> None:
        if self.backups and random.random() < 0.5:
            release_file_hold(hold_id=self.backups.pop(random.randrange(len(self.backups))).hold_id)
            return
        hold = take_file_hold(kind=FileHold.Kind.BACKUP, name=f"b{next(self.numbers)}")
        keys = frozenset(key for snapshot_id in self.kept for key in self._keys(snapshot_id))
        if random.random() < 0.5:
            narrow_file_hold(hold_id=hold.hold_id)
        self.backups.append(Backup(hold.hold_id, keys))

    # What lets them go

    @rule(step=st.sampled_from(STEPS))
    def wait(self, step: timedelta) -> None:
        advance(step)
        self.time += step
        self.readers = [reader for reader in self.readers if reader.until is None or reader.until > self.time]
        self.pins = {name: pin for name, pin in self.pins.items() if pin[1] is None or pin[1] > self.time}

    @rule()
    def leave_an_orphan(self) -> None:
        put_orphan(self.lake.store, self.tenant_id, next(self.numbers))

    @rule()
    def collect_all(self) -> None:
        self.collect(orphans=True, stop_at=0, ladder=False)

    @rule(orphans=st.booleans(), stop_at=st.sampled_from([0, 1, 2, 3]), ladder=st.booleans())
    def collect(self, orphans: bool, stop_at: int, ladder: bool) -> None:
        policy = RetentionPolicy() if ladder else ONLY_LATEST
        progress = Recorder(fail_at=stop_at, error=RunLost("lost") if stop_at else None)
        latest = resolve(tenant_id=self.tenant_id).snapshot_id
        needed = {latest, *self.restores, *(snapshot_id for snapshot_id, _ in self.pins.values())}
        try:
            retain(self.lake, scope=self.scope, policy=policy, orphans=orphans, progress=progress)
        except RunLost:
            assert stop_at
        else:
            assert ladder or self._present() == needed
        assert needed <= self._present() <= self.kept.keys()
        for gone in self.kept.keys() - self._present():
            with pytest.raises(SnapshotExpired):
                resolve(tenant_id=self.tenant_id, snapshot_id=gone)
            del self.kept[gone]
        self.look()

    # What must hold

    @invariant()
    def latest_snapshot_is_what_the_dict_says(self) -> None:
        latest = resolve(tenant_id=self.tenant_id).snapshot_id
        self.kept[latest] = {name: list(rows) for name, rows in self.state.items()}

    @invariant()
    def nobody_misses_a_file(self) -> None:
        there = stored(self.lake.store)
        for reader in (*self.readers, *self.backups):
            assert reader.keys <= there
        assert {a.file.path for a in self.attempts if self.time - a.began < ATTEMPT} <= there

    def look(self) -> None:
        """Every kept snapshot shows what it showed, and the catalog agrees with itself and the store."""
        check_reachable(self.tenant_id, self.lake.store)
        for snapshot_id, state in self.kept.items():
            assert self._shown(snapshot_id) == {name: sorted(rows) for name, rows in state.items()}

    def settle(self) -> None:
        """When nobody needs anything any more, the store holds what the catalog names and the snapshots show."""
        for backup in self.backups:
            release_file_hold(hold_id=backup.hold_id)
        for _ in range(3):
            retain(self.lake, scope=self.scope)
            advance(GRACE + timedelta(seconds=1))
        retain(self.lake, scope=self.scope)
        self.kept = {snapshot_id: self.kept[snapshot_id] for snapshot_id in self._present()}
        self.look()
        reachable = {key for snapshot_id in self.kept for key in self._keys(snapshot_id)}
        assert stored(self.lake.store) == named(self.tenant_id) == reachable

    def _publish(self, attempt: Attempt) -> None:
        try:
            publish_snapshot(tenant_id=self.tenant_id, kind=Snapshot.Kind.INGEST, actor="model", added=[attempt.file])
        except PublishConflict:
            return  # its table was dropped
        self.state[attempt.table] = [*self.state[attempt.table], *attempt.rows]

    def _file(self, name: str, rows: list[str]) -> NewFile:
        table_id = live_tables(tenant_id=self.tenant_id).find(name).table_id
        return new_file(self.lake.store, self.tenant_id, table_id, "\n".join(rows).encode())

    def _present(self) -> set[int]:
        return set(Snapshot.objects.filter(tenant_id=self.tenant_id).values_list("snapshot_id", flat=True))

    def _paths(self, snapshot_id: int) -> Mapping[str, list[str]]:
        tables = tables_at(tenant_id=self.tenant_id, snapshot_id=snapshot_id)
        files = files_at(
            tenant_id=self.tenant_id, snapshot_id=snapshot_id, table_ids=[table.table_id for table in tables.values()]
        )
        return {name: [file.path for file in files[table.table_id]] for name, table in tables.items()}

    def _keys(self, snapshot_id: int) -> frozenset[str]:
        return frozenset(path for paths in self._paths(snapshot_id).values() for path in paths)

    def _rows(self, path: str) -> list[str]:
        return self.lake.store.get(path).decode().split("\n")

    def _shown(self, snapshot_id: int) -> State:
        return {
            name: sorted(row for path in paths for row in self._rows(path))
            for name, paths in self._paths(snapshot_id).items()
        }


# How often each step is taken, by its letter in `walk`. Pins and backups keep files that only a reader would miss.
READERS = "cccqqqgggwwt"
BACKUPS = "cccbbggwwtt"
ALL = "cccqqqqggggggwwwaaaeeerrmpptttbboxd"


def walk(seed: int, *, steps: int, mix: str) -> None:
    """So many steps at random, of this mix."""
    chance = random.Random(seed)
    model = CollectedTenant()

    def step() -> None:
        match chance.choice(mix):
            case "c" if model.state:
                model.compact(chance)
            case "q":
                model.begin_a_query(chance)
            case "g":
                model.collect_all()
            case "w" if model.state:
                model.write(chance, at_once=True)
            case "a" if model.state:
                model.write(chance, at_once=False)
            case "e" if model.attempts:
                model.end_an_attempt(chance)
            case "r":
                model.restore(chance, at_once=chance.random() < 0.5)
            case "m" if model.restores:
                model.materialise()
            case "p":
                model.pin_or_unpin(chance, minutes=chance.choice([None, 3, 40]))
            case "t":
                model.wait(chance.choice(STEPS))
            case "b":
                model.begin_or_end_a_backup(chance)
            case "o":
                model.leave_an_orphan()
            case "x":
                model.collect(orphans=True, stop_at=chance.randint(1, 3), ladder=False)
            case "d":
                model.create_or_drop(chance.choice(NAMES))

    model.begin(writes=2)
    for _ in range(steps):
        step()
        model.latest_snapshot_is_what_the_dict_says()
        model.nobody_misses_a_file()
    model.teardown()
