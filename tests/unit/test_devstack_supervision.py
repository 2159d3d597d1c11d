"""What is generated for the supervisor, and where a stack keeps its state."""

import configparser
import os
from dataclasses import replace
from pathlib import Path

import pytest

from duckmesh.devstack import addresses, processes
from duckmesh.devstack.errors import StackError
from duckmesh.devstack.layout import LONGEST_SOCKET_PATH, Home
from duckmesh.devstack.programs import Program, free_port, port_is_free
from duckmesh.devstack.supervision import LAUNCH, configuration, write_files
from duckmesh.kernel.config import load_config

PROGRAM = Program(name="api", argv=("/bin/true",), cwd=Path("/"), env={"NAME": 'a "value" with 100% and ; and #'})


def test_no_path_or_value_of_ours_meets_the_supervisors_syntax(tmp_path: Path) -> None:
    home = Home(tmp_path / "100% odd; #home")
    home.claim()
    text = configuration([PROGRAM], socket=home.socket("supervisor"), at_once=["api"])
    assert "%" not in text
    assert "#" not in text
    assert ";" not in text


def test_the_configuration_starts_what_is_named_and_keeps_it_running(tmp_path: Path) -> None:
    later = replace(PROGRAM, name="beat", stop_signal="INT", stop_seconds=30)
    parser = configparser.RawConfigParser()
    parser.read_string(configuration([PROGRAM, later], socket=tmp_path / "run" / "s.sock", at_once=["api"]))
    assert parser["program:api"]["command"] == f"/bin/sh {LAUNCH} api"
    assert (parser["program:api"]["autostart"], parser["program:beat"]["autostart"]) == ("true", "false")
    assert parser["program:beat"]["autorestart"] == "true"
    assert (parser["program:beat"]["stopsignal"], parser["program:beat"]["stopwaitsecs"]) == ("INT", "30")
    assert int(parser["program:api"]["priority"]) < int(parser["program:beat"]["priority"])


def test_generated_files_are_for_this_user_only(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.claim()
    write_files(home, [PROGRAM], at_once=[])
    modes = {path.name: path.stat().st_mode & 0o777 for path in home.run.iterdir()}
    assert modes == {"api.json": 0o600, LAUNCH: 0o600, "supervisord.conf": 0o600}


def test_a_socket_lies_in_the_home_unless_its_path_would_be_too_long(tmp_path: Path) -> None:
    near = Home(Path("/srv/duckmesh"))
    assert near.socket("runners") == Path("/srv/duckmesh/run/runners.sock")
    far = Home(tmp_path / ("long" * 30))
    path = far.socket("runners")
    assert len(os.fsencode(path)) <= LONGEST_SOCKET_PATH
    assert path.parent.stat().st_mode & 0o077 == 0
    assert path != Home(tmp_path / ("long" * 31)).socket("runners")


def test_a_directory_that_holds_other_things_is_not_taken_as_home(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(StackError, match=r"thesis\.tex"):
        Home(tmp_path).claim()
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_ports_and_secrets_are_kept_unless_a_port_is_taken(tmp_path: Path) -> None:
    home = Home(tmp_path)
    first = addresses.remember(home)
    assert addresses.remember(home) == first
    assert home.memory.stat().st_mode & 0o777 == 0o600


def test_the_environments_servers_take_the_place_of_the_embedded_ones(tmp_path: Path) -> None:
    home = Home(tmp_path)
    memory = addresses.remember(home)
    environ = {"DUCKMESH_DATABASE_URL": "postgresql://u@db.example/x", "DUCKMESH_SECRET_KEY": "mine"}
    chosen = addresses.servers(home, memory, environ)
    assert chosen.postgres is None
    assert chosen.redis is not None
    addresses.write_stack_env(home, memory, chosen, environ)
    text = home.env_file.read_text(encoding="utf-8")
    assert "DUCKMESH_DATABASE_URL" not in text
    assert "DUCKMESH_SECRET_KEY" not in text
    config = load_config({**environ, "DUCKMESH_HOME": str(tmp_path)})
    assert config.database_url == "postgresql://u@db.example/x"
    assert config.redis_url == chosen.redis.url


def test_every_service_has_a_metrics_directory_of_its_own(tmp_path: Path) -> None:
    config = load_config({"DUCKMESH_HOME": str(tmp_path)})
    programs = processes.programs(config, Home(tmp_path), metrics_ports={})
    directories = [program.env["PROMETHEUS_MULTIPROC_DIR"] for program in programs]
    assert len(set(directories)) == len(programs)
    assert all(program.wipe == (Path(program.env["PROMETHEUS_MULTIPROC_DIR"]),) for program in programs)


def test_workers_and_beat_show_their_metrics_on_ports_of_their_own(tmp_path: Path) -> None:
    home = Home(tmp_path)
    config = load_config({"DUCKMESH_HOME": str(tmp_path)})
    ports = addresses.remember(home).metrics_ports
    programs = processes.programs(config, home, metrics_ports=ports)
    shown = {program.name: program.env.get("DUCKMESH_WORKER_METRICS_PORT") for program in programs}
    assert {name: int(port) for name, port in shown.items() if port} == ports
    assert len(set(ports.values())) == 4


def test_each_queue_has_a_worker(tmp_path: Path) -> None:
    config = load_config({"DUCKMESH_HOME": str(tmp_path), "DUCKMESH_MATERIALIZE_WORKERS": "3"})
    names = [program.name for program in processes.programs(config, Home(tmp_path), metrics_ports={})]
    assert {"worker-materialize", "worker-maintenance", "worker-drill", "beat", "api", "runners", "flower"} == set(
        names
    )
    materialize = next(
        program for program in processes.workers(config, Home(tmp_path)) if "materialize" in program.name
    )
    assert materialize.argv[materialize.argv.index("-c") + 1] == "3"


def test_a_free_port_is_free() -> None:
    assert port_is_free(free_port())


def test_a_home_where_tests_and_benchmarks_have_run_can_become_a_stack(tmp_path: Path) -> None:
    for name in ("bench", "s3test"):
        (tmp_path / name).mkdir()
    Home(tmp_path).claim()
    assert (tmp_path / "bench").is_dir()
