"""The programs of DuckMesh itself, derived from the configuration. The supervisor and the tests start the same ones."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from duckmesh.devstack.layout import Home
from duckmesh.devstack.programs import Program
from duckmesh.kernel.config import ROOT, Config

APP = "duckmesh.celery"
SLACK_SECONDS = 5  # from the end of the grace to a program's own end


class UnknownProgram(Exception):
    """DuckMesh has no program of this name."""


def runners(config: Config, home: Home) -> Program:
    """The process that forks the sealed query runners."""
    options = {
        "--socket": str(_runner_socket(config, home)),
        "--memory-bytes": str(config.query_memory_bytes),
        "--threads": str(config.query_threads),
        "--spill-dir": str(home.root / "spill"),
        "--spill-bytes": str(config.query_spill_bytes),
    }
    pairs = [part for pair in options.items() for part in pair]
    unsealed = ["--allow-unsealed"] if config.allow_unsealed_sql else []
    return _python("runners", ["query.zygote", *pairs, *unsealed], home)


def api(config: Config, home: Home) -> Program:
    """The API: granian with blocking threads, because a request may wait for visibility."""
    options = {
        "--interface": "wsgi",
        "--host": config.host,
        "--port": str(config.port),
        "--workers": str(config.api_processes),
        "--blocking-threads": str(config.api_threads),
        "--http": "1",
        "--workers-kill-timeout": str(int(config.stop_grace.total_seconds())),
        "--working-dir": str(ROOT),
    }
    pairs = [part for pair in options.items() for part in pair]
    return _python("api", ["granian", *pairs, "--no-ws", "--respawn-failed-workers", "duckmesh.wsgi:application"], home)


def workers(config: Config, home: Home) -> list[Program]:
    """One Celery worker for each queue."""
    counts = {"materialize": config.materialize_workers, "maintenance": config.maintenance_workers, "drill": 1}
    return [worker(f"worker-{queue}", home, queue=queue, processes=count) for queue, count in counts.items()]


def worker(name: str, home: Home, *, queue: str, processes: int) -> Program:
    """A Celery worker of one queue. It asks its siblings nothing, so it starts fast and depends on none."""
    options = ["-Q", queue, "-c", str(processes), "-n", f"{name}@%h", "-Ofair", "-l", "INFO"]
    return _celery(name, ["worker", *options, "--without-gossip", "--without-mingle"], home)


def beat(home: Home) -> Program:
    """The clock that sends due work to the queues."""
    schedule = home.run / "beat-schedule"
    return _celery("beat", ["beat", "-l", "INFO", "--pidfile=", f"--schedule={schedule}"], home)


def flower(config: Config, home: Home) -> Program:
    """The page that shows the workers. Who binds it elsewhere than to the loopback sets FLOWER_BASIC_AUTH."""
    return _celery("flower", ["flower", f"--address={config.host}", f"--port={config.flower_port}"], home)


def programs(config: Config, home: Home, *, metrics_ports: Mapping[str, int]) -> list[Program]:
    """All programs that need the servers, in the order they start. `metrics_ports` says who shows metrics where."""
    found = [
        runners(config, home),
        api(config, home),
        *workers(config, home),
        beat(home),
        flower(config, home),
    ]
    grace = int(config.stop_grace.total_seconds()) + SLACK_SECONDS
    return [
        replace(_with_metrics(program, metrics_ports.get(program.name, 0)), stop_seconds=grace) for program in found
    ]


def program(name: str, config: Config, home: Home) -> Program:
    """The program of this name; `worker-QUEUE-2` is one more worker of a queue on this machine.

    Raises `UnknownProgram`, whose message says which there are.
    """
    known = {one.name: one for one in programs(config, home, metrics_ports={})}
    first = name.rpartition("-")[0]
    if name in known:
        return known[name]
    if first.startswith("worker-") and first in known and name.removeprefix(f"{first}-").isdecimal():
        one = known[first]
        more = worker(name, home, queue=first.removeprefix("worker-"), processes=_processes(one))
        return replace(more, stop_seconds=one.stop_seconds)
    raise UnknownProgram(f"There is no program {name}; there are {', '.join(known)}, and worker-QUEUE-2 and so on.")


def _processes(worker: Program) -> int:
    return int(worker.argv[worker.argv.index("-c") + 1])


def _with_metrics(program: Program, port: int) -> Program:
    return replace(program, env={**program.env, "DUCKMESH_WORKER_METRICS_PORT": str(port)}) if port else program


def _celery(name: str, arguments: Sequence[str], home: Home) -> Program:
    return _python(name, ["celery", "-A", APP, *arguments], home)


def _python(name: str, module: Sequence[str], home: Home) -> Program:
    metrics = home.metrics(name)
    return Program(
        name=name,
        argv=(sys.executable, "-m", *module),
        env={
            "DUCKMESH_HOME": str(home.root),
            "DUCKMESH_PROMETHEUS_MULTIPROC_DIR": str(metrics),
            "PROMETHEUS_MULTIPROC_DIR": str(metrics),
            "PYTHONUNBUFFERED": "1",
        },
        cwd=ROOT,
        stop_seconds=15,
        wipe=(metrics,),
    )


def _runner_socket(config: Config, home: Home) -> Path:
    return config.runner_socket or home.socket("runners")
