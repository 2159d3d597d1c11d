"""What records cost in CPU time until they are visible, and which program spends it."""

import os
from collections.abc import Callable, Sequence
from contextlib import suppress

import psutil

from duckmesh.devstack.layout import Home
from duckmesh.devstack.supervision import Supervisor
from duckmesh.kernel.config import Config
from tests.benchmarks import columnar
from tests.benchmarks.ingest import await_all, make_table
from tests.benchmarks.load import Connection, Target, drive, ingest_bodies
from tests.benchmarks.report import Figure

_PER_REQUEST, _CONNECTIONS = 1_000, 8
_LOAD = "load generator"
_LEAST = 0.05  # seconds in a million records below which a program is not worth a line


def by_program(target: Target, config: Config) -> list[Figure]:
    """CPU seconds per million records by program: keyed JSON over 8 connections, and Arrow bodies over 2."""
    requests = target.some(400)
    path = make_table(target, "bench_cpu")
    warm = ingest_bodies(first=0, requests=_CONNECTIONS * 2, per_request=_PER_REQUEST)
    work = ingest_bodies(first=len(warm) * _PER_REQUEST, requests=requests, per_request=_PER_REQUEST)

    def send_json(bodies: Sequence[bytes]) -> None:
        drive(target, connections=_CONNECTIONS, work=bodies, path=path)
        await_all(Connection(target), path)

    arrow = columnar.load(target, table="bench_cpu_arrow", media_type=columnar.ARROW)

    def send_arrow(requests: int) -> None:
        arrow.post(requests)
        await_all(Connection(target), arrow.path)

    send_json(warm)
    json = _cost(config, lambda: send_json(work), millions=requests * _PER_REQUEST / 1_000_000)
    send_arrow(columnar.CONNECTIONS)
    bodies = max(4, target.some(20))
    columns = _cost(config, lambda: send_arrow(bodies), millions=bodies * arrow.rows / 1_000_000)
    return [*_figures("keyed JSON records", json), *_figures("records in Arrow bodies", columns)]


def _cost(config: Config, send: Callable[[], None], *, millions: float) -> dict[str, float]:
    """CPU seconds per million records of each program."""
    before = _spent(config)
    send()
    return {program: (spent - before.get(program, 0)) / millions for program, spent in _spent(config).items()}


def _figures(what: str, costs: dict[str, float]) -> list[Figure]:
    dearest = sorted(costs.items(), key=lambda cost: -cost[1])
    return [
        Figure(f"CPU seconds per million {what} until visible, without the load", _without_load(costs), "s"),
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
