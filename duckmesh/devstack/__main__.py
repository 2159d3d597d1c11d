"""`python -m duckmesh.devstack COMMAND`: what the Makefile's targets of the embedded stack run."""

import argparse
import sys
from collections.abc import Callable

from rich.console import Console
from rich.table import Table

from duckmesh.devstack import stack
from duckmesh.devstack.errors import StackError
from duckmesh.devstack.layout import Home
from duckmesh.devstack.supervision import Supervisor
from duckmesh.kernel.config import Config, ConfigError, load_config

DONE, PROBLEM = 0, 1
console = Console(highlight=False, markup=False, soft_wrap=True)


def main() -> int:
    """Run the command that the command line names; the answer is the exit status."""
    parser = argparse.ArgumentParser(prog="duckmesh.devstack", description="The embedded stack of DuckMesh.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, function in COMMANDS.items():
        commands.add_parser(name, help=function.__doc__)
    commands.choices["reset"].add_argument("--force", action="store_true", help="do not ask")
    commands.choices["demo"].add_argument("--exit", action="store_true", help="end after the tour and stop the stack")
    arguments = parser.parse_args()
    try:
        return COMMANDS[arguments.command](load_config(), arguments)
    except (StackError, ConfigError) as exc:
        Console(stderr=True, highlight=False, markup=False, soft_wrap=True).print(f"duckmesh: {exc}")
        return PROBLEM
    except KeyboardInterrupt:
        return 130


def up(config: Config, _: argparse.Namespace) -> int:
    """start the stack in the background"""
    started = stack.up(config, say=lambda text: console.print(f"  {text}"))
    console.print("DuckMesh is already running." if started.already else "DuckMesh is running.")
    show_addresses(started.running)
    console.print(f"  Key      in {Home(config.home).credentials}")
    if started.password:
        console.print(f"  Operator operator, password {started.password} (kept in {Home(config.home).operator})")
    return DONE


def down(config: Config, _: argparse.Namespace) -> int:
    """stop the stack; its data stay"""
    stopped = stack.down(config)
    console.print("DuckMesh has stopped; its data stay." if stopped else "DuckMesh was not running.")
    return DONE


def status(config: Config, _: argparse.Namespace) -> int:
    """show what runs"""
    home = Home(config.home)
    supervisor = Supervisor(home)
    if not supervisor.running():
        console.print("DuckMesh is not running.")
        return PROBLEM
    table = Table("Program", "State", "Process", "Since")
    processes = supervisor.states()
    for process in processes:
        since = process.description.partition("uptime ")[2] or process.description
        table.add_row(process.name, process.state.lower(), str(process.pid or ""), since)
    console.print(table)
    found = stack.running(home)
    missing = stack.is_ready(found)
    console.print("Ready." if missing is None else f"Not ready: {missing}")
    show_addresses(found)
    for name, url in found.metrics_urls.items():
        console.print(f"  Metrics  {url} ({name})")
    return DONE if missing is None and all(process.state == "RUNNING" for process in processes) else PROBLEM


def reset(config: Config, arguments: argparse.Namespace) -> int:
    """stop the stack and delete all its data"""
    if not arguments.force:
        if not sys.stdin.isatty():
            raise StackError("reset deletes all data and cannot ask here; run make reset FORCE=1.")
        if input(f"Delete all data of the stack in {config.home}? [y/N] ").strip().lower() not in {"y", "yes"}:
            console.print("Nothing was deleted.")
            return PROBLEM
    deleted = stack.reset(config)
    for path in deleted:
        console.print(f"Deleted {path}")
    if not deleted:
        console.print("There is no stack; nothing was deleted.")
    return DONE


def demo(config: Config, arguments: argparse.Namespace) -> int:
    """stream real flights through the stack and show what it can do"""
    from duckmesh.devstack.demo import run_demo  # only this command needs pyarrow

    return run_demo(config, console=console, leave=arguments.exit)


def show_addresses(found: stack.Running) -> None:
    """Print where to look."""
    console.print(f"  API      {found.base_url}")
    console.print(f"  Docs     {found.docs_url}")
    console.print(f"  Admin    {found.admin_url}")
    console.print(f"  Flower   {found.flower_url}")


COMMANDS: dict[str, Callable[[Config, argparse.Namespace], int]] = {
    "up": up,
    "down": down,
    "status": status,
    "reset": reset,
    "demo": demo,
}

if __name__ == "__main__":
    sys.exit(main())
