"""The drill: dump the living catalog, restore it beside itself, and prove the copy against the store and the source.

All that is compared is of the one instant that the dump is of, so that writes, compaction and expiry beside it change
nothing; a hold keeps the files of that instant. The scratch database goes whatever happens: at the end of the drill, or
at the beginning of the next one if this process is killed.
"""

import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

from django.db.models.functions import Now

from catalog.models import FileHold
from duckmesh.kernel import clock
from duckmesh.kernel.errors import JSON
from duckmesh.kernel.failpoints import failpoint
from maintenance.backup.encryption import seal, unseal
from maintenance.backup.named import applied_migrations
from maintenance.drill.errors import DrillFailed
from maintenance.drill.figures import TableFigures, differences, guards, table_figures
from maintenance.drill.holding import drill_hold
from maintenance.drill.readback import Sample, contents, missing_objects, read_tables, sample_tables
from maintenance.drill.relations import broken_relations, lagging_sequences
from maintenance.job import JobOptions, Progress, Scope, Workplace
from maintenance.models import Backup
from maintenance.postgres.databases import Server, connected_to, exported, server_session
from maintenance.postgres.programs import Programs, dumping, load
from maintenance.restore.loaded import begin_life, missing_migrations, unknown_migrations
from maintenance.rewrite import RewriteLimits, rewriter
from storage.proof import ContentProof

STEPS = ("hold", "read", "dump", "restore", "rows", "migrations", "relations", "incarnation", "objects", "queries")
_CLEANUP = "cleanup"
_PURPOSE = "drill"


class DrillOptions(JobOptions):
    """`checksums` compares what PostgreSQL's tables hold too, not only how many rows; `keep` leaves the copy there."""

    checksums: bool = False
    keep: bool = False


@dataclass(frozen=True, kw_only=True)
class DrillPolicy:
    """What a drill uses: how many tables it reads back, and how many bytes of their files at most."""

    programs: Programs
    most_tables: int = 20
    most_bytes: int = 2**30
    hold_for: timedelta = timedelta(minutes=15)


@dataclass(frozen=True, kw_only=True)
class _Source:
    """What the living catalog was at the instant of the dump."""

    at: datetime
    figures: Mapping[str, TableFigures]
    guards: frozenset[str]
    migrations: tuple[str, ...]
    samples: list[Sample]


@dataclass
class _Course:
    """How far the drill has come: what it tells, and what it has found."""

    progress: Progress
    began: float = field(default_factory=time.monotonic)
    seconds: dict[str, JSON] = field(default_factory=dict)
    findings: list[JSON] = field(default_factory=list)
    facts: dict[str, JSON] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[dict[str, JSON]]:
        """The step is told when the block has ended, with its time and the facts that the block has left."""
        self.progress.at(name, STEPS.index(name) / len(STEPS))
        began, facts = time.monotonic(), dict[str, JSON]()
        yield facts
        self.seconds[name] = took = round(time.monotonic() - began, 3)
        self.progress.step(name, seconds=took, **facts)
        failpoint(f"drill.after_{name}")

    def found(self, step: str, problems: list[dict[str, object]]) -> int:
        """These problems are findings of the drill; how many they are."""
        self.findings += [{"step": step, **{key: _json(value) for key, value in each.items()}} for each in problems]
        return len(problems)


def perform(
    *, scope: Scope, options: DrillOptions, place: Workplace, policy: DrillPolicy, progress: Progress
) -> dict[str, JSON]:
    """A dump of the catalog was restored and is the catalog. Raises `DrillFailed` if it is not, which says how."""
    if options.dry_run:
        for name in (*STEPS, _CLEANUP):
            progress.step(name, dry_run=True)
        return {"dry_run": True, "steps": [*STEPS, _CLEANUP]}
    course = _Course(progress)
    place.scratch.mkdir(parents=True, exist_ok=True)
    with server_session() as server:
        left = server.drop_leftovers(_PURPOSE)
        FileHold.objects.filter(kind=FileHold.Kind.DRILL, expires_at__lte=Now()).delete()
        if left:
            progress.step("cleared", databases=len(left))
        directory = Path(tempfile.mkdtemp(dir=place.scratch, prefix="drill-"))
        scratch = server.scratch_name(_PURPOSE)
        try:
            with drill_hold(name=scratch, lives_for=policy.hold_for) as hold:
                with course.step("hold"):
                    hold.check()
                source = _dump(directory / "catalog.dump", server, scope, options, policy, course)
                restoring = time.monotonic()
                _restore(directory / "catalog.dump", server, scratch, policy, course)
                _compare(source, scratch, scope, options, course)
                _read_back(source, scratch, place, policy, course)
                hold.check()
            course.facts["rto_seconds"] = round(time.monotonic() - restoring, 3)
            course.facts["rpo_seconds"] = round((clock.now() - source.at).total_seconds(), 3)
        finally:
            shutil.rmtree(directory, ignore_errors=True)
            if options.keep:
                course.facts["kept_database"] = server.keep_scratch(scratch)
            else:
                server.drop_scratch(scratch)
    progress.step(_CLEANUP, kept=course.facts.get("kept_database"))
    return _summary(course)


def _dump(
    path: Path, server: Server, scope: Scope, options: DrillOptions, policy: DrillPolicy, course: _Course
) -> _Source:
    """The dump is at `path`; what the catalog was at its instant."""
    with exported() as instant:
        with course.step("read") as facts, instant.read():
            source = _Source(
                at=instant.at,
                figures=table_figures(tenant_id=scope.tenant_id, checksums=options.checksums),
                guards=guards(),
                migrations=applied_migrations(),
                samples=sample_tables(scope=scope, most=policy.most_tables),
            )
            facts["tables"], facts["rows"] = len(source.figures), sum(f.rows for f in source.figures.values())
        with course.step("dump") as facts:
            with (
                path.open("xb") as file,
                dumping(policy.programs, snapshot=instant.snapshot, server=server.version, compress=False) as dump,
            ):
                seal(dump, file, key=None)
            if scope.tenant_id is None:  # it is of everybody's
                facts["bytes"] = path.stat().st_size
    return source


def _restore(path: Path, server: Server, scratch: str, policy: DrillPolicy, course: _Course) -> None:
    with course.step("restore"):
        server.create_scratch(scratch)
        failpoint("drill.after_create")
        with path.open("rb") as file:
            feed = partial(unseal, file, key=None, encrypted=False)
            load(policy.programs, database=scratch, server=server.version, feed=feed)


def _compare(source: _Source, scratch: str, scope: Scope, options: DrillOptions, course: _Course) -> None:
    """What differs between the two databases, or does not hold in the restored one, is found."""
    with course.step("rows") as facts, connected_to(scratch):
        restored = table_figures(tenant_id=scope.tenant_id, checksums=options.checksums)
        facts["tables"], facts["checksums"] = len(restored), options.checksums
        facts["findings"] = course.found("rows", differences(source.figures, restored))
    course.facts["tables"] = {
        name: {"rows": figures.rows, **({"checksum": figures.checksum} if options.checksums else {})}
        for name, figures in restored.items()
    }
    with course.step("migrations") as facts, connected_to(scratch):
        applied = applied_migrations()
        lost = sorted({*source.migrations, *missing_migrations()} - set(applied))
        unknown = sorted({*unknown_migrations(applied), *(set(applied) - set(source.migrations))})
        wrong: list[dict[str, object]] = [{"migration": name, "what": "missing"} for name in lost]
        wrong += [{"migration": name, "what": "unknown"} for name in unknown]
        facts["migrations"], facts["findings"] = len(applied), course.found("migrations", wrong)
    with course.step("relations") as facts, connected_to(scratch):
        absent: list[dict[str, object]] = [
            {"relation": "guard_missing", "what": guard} for guard in sorted(source.guards - guards())
        ]
        facts["findings"] = course.found(
            "relations", [*absent, *broken_relations(tenant_id=scope.tenant_id), *lagging_sequences()]
        )


def _read_back(source: _Source, scratch: str, place: Workplace, policy: DrillPolicy, course: _Course) -> None:
    """The restored catalog begins a life of its own; what its latest snapshots show differently is found."""
    names = [(sample.tenant_id, sample.table.name) for sample in source.samples]
    with course.step("incarnation"), connected_to(scratch):
        begin_life(dumped_at=source.at, backup=None)
        restored = {sample.name: sample for sample in read_tables(names)}
    with course.step("objects") as facts:
        facts["objects"] = sum(len(sample.table.files) for sample in restored.values())
        facts["findings"] = course.found("objects", missing_objects(restored.values(), place.store))
    lost = {str(finding["table"]) for finding in course.findings if isinstance(finding, dict) and "key" in finding}
    with course.step("queries") as facts:
        read = 0
        budget = policy.most_bytes
        problems: list[dict[str, object]] = []
        with rewriter(RewriteLimits(), scratch=place.scratch) as engine:
            for sample in source.samples:
                if sample.name in lost or sample.size_bytes > budget or not sample.table.schema.columns:
                    continue
                budget -= sample.size_bytes
                twin = restored.get(sample.name)
                here = contents(sample, store=place.store, engine=engine)
                there = None if twin is None else contents(twin, store=place.store, engine=engine)
                if here != there:
                    problems.append(_other_rows(sample, here, there))
                read += 1
        facts["tables"], facts["findings"] = read, course.found("queries", problems)
    course.facts["tables_read"] = [sample.name for sample in source.samples]


def _other_rows(sample: Sample, here: ContentProof, there: ContentProof | None) -> dict[str, object]:
    return {"table": sample.name, "rows": here.count, "restored_rows": None if there is None else there.count}


def _summary(course: _Course) -> dict[str, JSON]:
    newest = Backup.objects.filter(state=Backup.State.COMPLETED).order_by("-dumped_at").first()
    age = None if newest is None or newest.dumped_at is None else (clock.now() - newest.dumped_at).total_seconds()
    summary: dict[str, JSON] = {
        **course.facts,
        "latest_backup_age_seconds": age,
        "step_seconds": course.seconds,
        "seconds": round(time.monotonic() - course.began, 3),
        "findings": course.findings[:100],
        "finding_count": len(course.findings),
    }
    if course.findings:
        raise DrillFailed(f"The drill has found {len(course.findings)} problems.", summary=summary)
    return summary


def _json(value: object) -> JSON:
    assert value is None or isinstance(value, str | int | float | bool)
    return value
