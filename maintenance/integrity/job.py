"""The job `integrity`: the catalog against itself, the store's listing against the catalog, and, `deep`, every byte.

Each slice is found, recorded and saved in that order: what a run that died has done but not saved is done again by the
next process, and what it finds again is recorded once.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal

import structlog
from pydantic import Field

from catalog.models import DataFile
from duckmesh.kernel.errors import JSON, Denied, DuckMeshError, OutcomeUnknown, Unavailable
from duckmesh.kernel.failpoints import failpoint
from maintenance.integrity.bus_checks import BUS_CHECKS
from maintenance.integrity.checks import NOTHING, Check, findings_of, slices
from maintenance.integrity.contents import Reader, files_to_read, read_file
from maintenance.integrity.file_checks import FILE_CHECKS
from maintenance.integrity.findings import Finding, FindingKind, record
from maintenance.integrity.history_checks import HISTORY_CHECKS
from maintenance.integrity.layouts import Layouts
from maintenance.integrity.objects import compare
from maintenance.integrity.pace import Pace
from maintenance.integrity.plan import Plan, plan_of
from maintenance.integrity.state import Phase, State
from maintenance.integrity.verdict import conclude
from maintenance.job import JobOptions, Progress, Scope, Workplace
from maintenance.rewrite import RewriteLimits, rewriter

log = structlog.get_logger(__name__)

CHECKS = (*HISTORY_CHECKS, *FILE_CHECKS, *BUS_CHECKS)

_FROM_THE_STORE = (Unavailable, OutcomeUnknown, Denied, OSError)
_PATIENCE = 3
_MOST_FAILURES = 20
_FILES_A_SAVE = 20


class IntegrityOptions(JobOptions):
    """What may be asked of an integrity run. The range of snapshots is of one tenant, both ends included."""

    mode: Literal["quick", "deep"] = "quick"
    from_snapshot: int | None = Field(None, ge=0)
    to_snapshot: int | None = Field(None, ge=0)


@dataclass(frozen=True, kw_only=True)
class IntegrityLimits:
    """What a run may use, and how old an object without a row must be to be no write under way."""

    bytes_per_second: int
    orphan_grace: timedelta
    memory_bytes: int = 512 * 2**20
    retry_pause: timedelta = timedelta(seconds=1)


def perform(
    *, scope: Scope, options: IntegrityOptions, place: Workplace, limits: IntegrityLimits, progress: Progress
) -> Mapping[str, JSON]:
    """All that the scope's kept snapshots name is as the catalog says, and the catalog does not contradict itself.

    Raises `IntegrityCheckFailed` where that is not so and `IntegrityUnfinished` where the store did not tell; both
    hold the summary. A dry run tells what would be looked at.
    """
    plan = plan_of(scope=scope, from_snapshot=options.from_snapshot, to_snapshot=options.to_snapshot)
    checks = [check for check in CHECKS if _applies(check, plan, options)]
    if options.dry_run:
        return {"dry_run": True, "mode": options.mode, "checks": [check.kind.value for check in checks], **plan.shown}
    run = _Run(plan=plan, checks=checks, options=options, place=place, limits=limits, progress=progress)
    run.check_catalog()
    run.compare_objects()
    if options.mode == "deep":
        run.read_contents()
    return conclude(run_id=progress.run_id, plan=plan, mode=options.mode, counts=run.state.counts)


def _applies(check: Check, plan: Plan, options: IntegrityOptions) -> bool:
    whole_tenant = plan.part is None or plan.part.table_id is None
    return (whole_tenant or not check.whole_tenant) and (options.mode == "deep" or not check.deep)


@dataclass(kw_only=True)
class _Run:
    """A run on its way through its phases."""

    plan: Plan
    checks: list[Check]
    options: IntegrityOptions
    place: Workplace
    limits: IntegrityLimits
    progress: Progress
    state: State = field(init=False)
    pace: Pace = field(init=False)

    def __post_init__(self) -> None:
        self.state = State.of(self.progress.cursor)
        self.pace = Pace(progress=self.progress, bytes_per_second=self.limits.bytes_per_second)

    def check_catalog(self) -> None:
        """The catalog of every tenant has been held against itself."""
        state, tenants = self.state, self.plan.tenant_ids
        if state.phase != Phase.CATALOG:
            return
        for place, tenant_id in enumerate(tenants):
            if tenant_id < state.name:
                continue
            if tenant_id > state.name:
                state.begin(Phase.CATALOG, name=tenant_id)
            part = self.plan.part_of(tenant_id)
            for number, check in enumerate(self.checks):
                if number < state.number:
                    continue
                if number > state.number:
                    state.begin(Phase.CATALOG, name=tenant_id, number=number)
                self._told((place + number / len(self.checks)) / len(tenants))
                after = state.after if isinstance(state.after, int) else NOTHING
                for low, high in slices(check.by, part=part, after=after):
                    found = findings_of(check, part=part, low=low, high=high)
                    state.after = high
                    if found or check.by != "tenant":
                        self._save(found)
                    self.pace.tell()
        self.progress.step("catalog_checked", tenants=len(tenants), checks=len(self.checks))
        state.begin(Phase.OBJECTS, name=self.plan.ground.prefixes[0])
        self._save([])

    def compare_objects(self) -> None:
        """The store's listing has been held against the catalog, as far as the store told it."""
        state, prefixes = self.state, self.plan.ground.prefixes
        if state.phase != Phase.OBJECTS:
            return
        for number, prefix in enumerate(prefixes):
            if number < state.number:
                continue
            if number > state.number:
                state.begin(Phase.OBJECTS, name=prefix, number=number)
            self._compare(prefix)
        self.progress.step("objects_compared", files=state.counts["files"], objects=state.counts["objects"])
        state.begin(Phase.CONTENTS)
        self._save([])

    def _compare(self, prefix: str) -> None:
        failures = 0
        while True:
            try:
                self._compare_on(prefix)
            except _FROM_THE_STORE as exc:
                failures += 1
                log.warning("listing_failed", prefix=prefix, reason=type(exc).__name__)
                if failures == _PATIENCE or isinstance(exc, Denied):
                    self._unchecked(exc, object_key=prefix, behind=self.state.after)
                    return
                time.sleep(self.limits.retry_pause.total_seconds() * failures)
            else:
                return

    def _compare_on(self, prefix: str) -> None:
        state = self.state
        after = state.after if isinstance(state.after, str) else ""
        store, ground, grace = self.place.store, self.plan.ground, self.limits.orphan_grace
        for slice_ in compare(store=store, ground=ground, prefix=prefix, after=after, grace=grace):
            state.after = slice_.upto
            state.counts["references"] += slice_.references
            state.counts["files"] += slice_.files
            state.counts["staged"] += slice_.staged
            state.counts["objects"] += slice_.objects
            self._save(slice_.findings)
            self._told(state.counts["files"] / max(1, self.plan.files))

    def read_contents(self) -> None:
        """Every file has been read, as far as the store gave it."""
        state = self.state
        limits = RewriteLimits(memory_bytes=self.limits.memory_bytes)
        after = state.after if isinstance(state.after, int) else 0
        failures, unsaved = 0, 0
        with rewriter(limits, scratch=self.place.scratch) as engine:
            reader = Reader(store=self.place.store, engine=engine, layouts=Layouts(), spent=self.pace.spent)
            for file in files_to_read(part=self.plan.part, after=after):
                found = self._read(file, reader)
                state.after = file.file_id
                state.counts["tried_bytes"] += file.size_bytes
                self._told(state.counts["tried_bytes"] / max(1, self.plan.size_bytes))
                unsaved += 1
                if found or unsaved >= _FILES_A_SAVE:
                    self._save(found or [])
                    unsaved = 0
                failures = failures + 1 if found is None else 0
                if failures == _MOST_FAILURES:
                    break  # the store is away; what is left is left
        if unsaved:
            self._save([])
        self.progress.step("contents_read", files=state.counts["read_files"], bytes=state.counts["read_bytes"])

    def _read(self, file: DataFile, reader: Reader) -> list[Finding] | None:
        """What is wrong with the file; None if the store did not give it."""
        try:
            found = read_file(file, reader=reader)
        except _FROM_THE_STORE as exc:
            self._unchecked(exc, object_key=file.path, file_id=file.file_id, table_id=file.table_id)
            return None
        self.state.counts["read_files"] += 1
        self.state.counts["read_bytes"] += file.size_bytes
        self.state.counts["read_rows"] += file.row_count
        return found

    def _unchecked(self, exc: Exception, **where: str | int | None) -> None:
        """Part of the store did not tell; a run that must stop is told so here as everywhere."""
        self.state.counts["operational_failures"] += 1
        reason = exc.code if isinstance(exc, DuckMeshError) else "OBJECT_STORE_UNAVAILABLE"
        found = Finding(
            kind=FindingKind.UNCHECKED_OBJECTS,
            tenant_id=self.plan.part.tenant_id if self.plan.part else None,
            table_id=_number(where.get("table_id")),
            file_id=_number(where.get("file_id")),
            object_key=str(where["object_key"]),
            detail={"reason": reason, "behind": where.get("behind")},
        )
        record([found], run_id=self.progress.run_id)

    def _save(self, found: list[Finding]) -> None:
        if found:
            record(found, run_id=self.progress.run_id)
        failpoint("integrity.before_save")
        self.progress.save(self.state.cursor)
        failpoint("integrity.after_save")

    def _told(self, done: float) -> None:
        shares = {"quick": (0.3, 0.7, 0.0), "deep": (0.1, 0.1, 0.8)}[self.options.mode]
        place = list(Phase).index(self.state.phase)
        self.pace.at(self.state.phase.value, sum(shares[:place]) + shares[place] * min(done, 1.0))


def _number(value: str | int | None) -> int | None:
    return value if isinstance(value, int) else None
