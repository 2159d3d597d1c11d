"""`make bench [ARGS="throughput query"]`: the real stack in a directory of its own, measured over HTTP.

`ARGS="--share 0.02"` runs all of it at a fiftieth of its size: whether it works, not how fast it is.
"""

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from duckmesh.devstack import stack
from duckmesh.devstack.programs import free_port
from duckmesh.kernel.config import Config, load_config
from tests.benchmarks import (
    columnar,
    compaction,
    cpu,
    dump,
    fairness,
    ingest,
    integrity,
    keyed,
    peer,
    query,
    registry,
    report,
    scan,
)
from tests.benchmarks.load import Target

Benchmark = Callable[[Target, Config], list[report.Figure]]

BENCHMARKS: dict[str, Benchmark] = {
    "ducklake": peer.against_ducklake,
    "throughput": lambda target, _: ingest.throughput(target),
    "single": lambda target, _: ingest.single_records(target),
    "visible": lambda target, _: ingest.write_to_visible(target),
    "columnar": lambda target, _: columnar.large_bodies(target),
    "registry": registry.by_keys_remembered,
    "cpu": cpu.by_program,
    "query": lambda target, config: query.overhead(target, objects=config.home / "objects"),
    "scan": scan.many_rows,
    "fairness": lambda target, _: fairness.beside_a_hostile_tenant(target),
    "keyed": lambda target, _: keyed.unfolded_reads(target),
    "compaction": compaction.beside_a_bare_copy,
    "dump": dump.under_a_dump,
    "integrity": integrity.many_files,
}


def main() -> None:
    """Run the named benchmarks, or all, and keep their figures."""
    parser = argparse.ArgumentParser(prog="make bench")
    parser.add_argument("benchmark", nargs="*", choices=[*BENCHMARKS, []], help="which to run; default: all")
    parser.add_argument("--share", type=float, default=1.0, help="how much of the full size to measure; default: 1")
    arguments = parser.parse_args()
    names = arguments.benchmark or list(BENCHMARKS)
    console = Console(highlight=False)
    kept = load_config().home / "bench"
    home = Path(tempfile.mkdtemp(prefix="duckmesh-bench-"))
    ports = {"DUCKMESH_PORT": str(free_port()), "DUCKMESH_FLOWER_PORT": str(free_port())}
    os.environ |= {"DUCKMESH_HOME": str(home), "DUCKMESH_LOG_LEVEL": "WARNING", **ports}
    config = load_config()
    figures: list[report.Figure] = []
    failed: list[str] = []
    try:
        console.print("Starting a stack of its own …")
        started = stack.up(config, say=lambda _: None, tied=True)
        credentials = started.credentials
        target = Target(base_url=credentials.base_url, api_key=credentials.api_key, share=arguments.share)
        for name in names:
            console.print(f"Measuring {name} …")
            try:
                figures += BENCHMARKS[name](target, config)
            except Exception:  # noqa: BLE001 - what the others measure is not lost
                console.print_exception()
                failed.append(name)
    finally:
        stack.down(config)
        stack.reset(config)
        shutil.rmtree(home, ignore_errors=True)
    if figures:
        report.show(figures, share=arguments.share)
        console.print(f"Kept in {report.keep(figures, kept, share=arguments.share)}")
    if failed:
        sys.exit(f"Not measured: {', '.join(failed)}")


if __name__ == "__main__":
    main()
