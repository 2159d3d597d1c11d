"""`make bench [ARGS="throughput query"]`: the real stack in a directory of its own, measured over HTTP."""

import argparse
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from duckmesh.devstack import stack
from duckmesh.devstack.programs import free_port
from duckmesh.kernel.config import Config, load_config
from tests.benchmarks import dump, ingest, query, report
from tests.benchmarks.load import Target

Benchmark = Callable[[Target, Config], list[report.Figure]]

BENCHMARKS: dict[str, Benchmark] = {
    "throughput": lambda target, _: ingest.throughput(target),
    "single": lambda target, _: ingest.single_records(target),
    "visible": lambda target, _: ingest.write_to_visible(target),
    "query": lambda target, config: query.overhead(target, objects=config.home / "objects"),
    "dump": dump.under_a_dump,
}


def main() -> None:
    """Run the named benchmarks, or all, and keep their figures."""
    parser = argparse.ArgumentParser(prog="make bench")
    parser.add_argument("benchmark", nargs="*", choices=[*BENCHMARKS, []], help="which to run; default: all")
    names = parser.parse_args().benchmark or list(BENCHMARKS)
    console = Console(highlight=False)
    kept = load_config().home / "bench"
    home = Path(tempfile.mkdtemp(prefix="duckmesh-bench-"))
    os.environ |= {"DUCKMESH_HOME": str(home), "DUCKMESH_PORT": str(free_port()), "DUCKMESH_LOG_LEVEL": "WARNING"}
    config = load_config()
    figures: list[report.Figure] = []
    try:
        console.print("Starting a stack of its own …")
        started = stack.up(config, say=lambda _: None, tied=True)
        target = Target(base_url=started.running.base_url, api_key=started.credentials.api_key)
        for name in names:
            console.print(f"Measuring {name} …")
            figures += BENCHMARKS[name](target, config)
    finally:
        stack.down(config)
        stack.reset(config)
        shutil.rmtree(home, ignore_errors=True)
    report.show(figures)
    console.print(f"Kept in {report.keep(figures, kept)}")


if __name__ == "__main__":
    main()
