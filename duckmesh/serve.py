"""`python -m duckmesh.serve NAME`: become one program of DuckMesh, whoever keeps it running.

The container images, the systemd units and the Procfile all start the same programs as `make up`, this way. What has
to be true before is made true here: the configuration is one that may be served, the home has its directories, and the
numbers of a predecessor's processes are gone.
"""

import argparse
import os
import shutil
import sys
from typing import NoReturn

from duckmesh.dangers import dangers
from duckmesh.devstack import processes
from duckmesh.devstack.layout import Home
from duckmesh.devstack.programs import Program
from duckmesh.kernel.config import Config, ConfigError, load_config


def main() -> NoReturn:
    """This process is the program that the command line names, or ends with a sentence that says why not."""
    try:
        config = load_config()
    except ConfigError as exc:
        sys.exit(f"duckmesh: {exc}")
    parser = argparse.ArgumentParser(prog="python -m duckmesh.serve", description="Become one program of DuckMesh.")
    parser.add_argument("name", help="api, runners, worker-materialize, worker-maintenance, worker-drill, beat, flower")
    home = Home(config.home)
    try:
        program = processes.program(parser.parse_args().name, config, home)
    except processes.UnknownProgram as exc:
        parser.error(str(exc))
    if found := dangers(config):
        sys.exit("\n".join(f"duckmesh: {danger.text} {danger.hint}" for danger in found))
    become(program, config=config, home=home)


def become(program: Program, *, config: Config, home: Home) -> NoReturn:
    """This process is `program`, in a home that has its directories."""
    for directory in (home.run, home.log, config.home / "scratch"):
        directory.mkdir(parents=True, exist_ok=True)
    for directory in program.wipe:
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
    os.chdir(program.cwd)
    os.execve(program.argv[0], program.argv, {**os.environ, **program.env})


if __name__ == "__main__":
    main()
