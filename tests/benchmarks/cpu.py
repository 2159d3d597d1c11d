"""What records cost in CPU time until they are visible, and which program spends it."""

import os
from contextlib import suppress

import psutil

from duckmesh.devstack.layout import Home
from duckmesh.devstack.supervision import Supervisor
from duckmesh.kernel.config import Config
from tests.benchmarks.ingest import await_all, make_table
from tests.benchmarks.load import Connection, Target, drive, ingest_bodies
from tests.benchmarks.report import Figure

_PER_REQUEST, _CONNECTIONS = 1_000, 8
_LOAD = "load generator"
_LEAST = 0.05  # seconds in a million records below which a program is not worth a line


def by_program(target: Target, config: Config) -> list[Figure]:
    """CPU seconds per million keyed JSON records, over 8 connections, by program."""
    requests = target.some(400)
    path = make_table(target, "bench_cpu")
    warm = ingest_bodies(first=0, requests=_CONNECTIONS * 2, per_request=_PER_REQUEST)
    drive(target, connections=_CONNECTIONS, work=warm, path=path)
    await_all(Connection(target), path)
    work = ingest_bodies(first=len(warm) * _PER_REQUEST, requests=requests, per_request=_PER_REQUEST)
    before = _spent(config)
    drive(target, connections=_CONNECTIONS, work=work, path=path)
    await_all(Connection(target), path)
    millions = requests * _PER_REQUEST / 1_000_000
    costs = {program: (spent - before.get(program, 0)) / millions for program, spent in _spent(config).items()}
    dearest = sorted(costs.items(), key=lambda cost: -cost[1])
    return [
        Figure("CPU seconds per million records until visible, without the load", _without_load(costs), "s"),
        *(Figure(f"… {program}", cost, "s") for program, cost in dearest if cost >= _LEAST),
    ]


def _without_load(costs: dict[str, float]) -> float:
    return sum(cost for program, cost in costs.items() if program != _LOAD)


def _spent(config: Config) -> dict[str, float]:
    """CPU seconds of each program since it started, processes that have ended included."""
    spent = {state.name: _of_tree(state.pid) for state in Supervisor(Home(config.home)).states() if state.pid}
    times = os.times()
    return {**spent, _LOAD: times.user + times.system}


def _of_tree(pid: int) -> float:
    root = psutil.Process(pid)
    total = 0.0
    for process in (root, *root.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):  # it ended meanwhile: its parent counts it from now on
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total
