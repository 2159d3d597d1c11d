"""What every stack begins with: a home and a database as `make up` leaves them, and tenants to spare.

They are made once in a process, and copied: a tenth of a second instead of five of a processor.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

from duckmesh.devstack import addresses, bootstrap
from duckmesh.devstack.credentials import Credentials, read_credentials
from duckmesh.devstack.layout import Home
from duckmesh.devstack.postgres import THROW_AWAY, Postgres, data_directory
from duckmesh.devstack.programs import check_alive, spawn, stop, write_private
from duckmesh.devstack.redis import Redis
from duckmesh.kernel.config import ROOT, load_config
from tests.servers import start_janitor

SPARES = 16


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A home whose database has the schema and the tenants. Its server stands still."""

    home: Home
    data: Path
    spares: dict[str, str]

    def copy_to(self, home: Home, *, data: Path, base_url: str) -> None:
        """The other home and its database are as this one's, with ports of its own."""
        kept = json.loads(self.home.memory.read_text(encoding="utf-8"))
        secrets = {name: value for name, value in kept.items() if "_port" not in name}
        write_private(home.memory, json.dumps(secrets))
        credentials: Credentials = replace(read_credentials(self.home), base_url=base_url)
        write_private(home.credentials, json.dumps(asdict(credentials)))
        shutil.copy(self.home.operator, home.operator)
        subprocess.run(["cp", "-a", self.data, data], check=True)  # PostgreSQL insists on the owner


@cache
def prepared() -> Prepared:
    """That of this process, with which it goes."""
    directory = Path(tempfile.mkdtemp(prefix="duckmesh-test-"))
    directory.chmod(0o711)
    home = Home(directory / "home")
    home.claim()
    memory = addresses.remember(home)
    postgres = Postgres(
        data=data_directory(home.root / "postgres"),
        port=memory.postgres_port,
        password=memory.postgres_password,
        settings=THROW_AWAY,
    )
    redis = Redis(data=home.root / "redis", port=memory.redis_port, password=memory.redis_password)
    addresses.write_stack_env(home, memory, addresses.Servers(postgres=postgres, redis=redis), {})
    start_janitor(directory, postgres.data)
    _fill(home, postgres, memory)
    return Prepared(home=home, data=postgres.data, spares=json.loads(_spares_of(home).read_text(encoding="utf-8")))


def _fill(home: Home, postgres: Postgres, memory: addresses.Memory) -> None:
    postgres.prepare()
    program, log = postgres.program(), home.log / "postgres.log"
    process = spawn(program, run=home.run, log=log)
    postgres.wait(check=lambda: check_alive(process, program, log))
    bootstrap.prepare_server(postgres, memory)
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("DUCKMESH_", "DJANGO_"))}
    environ["DUCKMESH_HOME"] = str(home.root)
    command = [sys.executable, "-m", "tests.prepared"]
    subprocess.run(command, env=environ, cwd=ROOT, check=True, capture_output=True, timeout=60)
    stop(process, program)


def _spares_of(home: Home) -> Path:
    return home.run / "spares.json"


def main() -> None:
    """The database of the home has all of it: `python -m tests.prepared`."""
    bootstrap.main()
    from api.keys import create_api_key  # models cannot be imported before the setup above
    from api.models import Role
    from catalog.tenants import create_tenant

    spares: dict[str, str] = {}
    for number in range(SPARES):
        tenant_id = f"spare{number:02}"
        create_tenant(tenant_id=tenant_id)
        made = create_api_key(tenant_id=tenant_id, name="Every role", roles=Role.values, actor="tests")
        spares[tenant_id] = made.api_key
    write_private(_spares_of(Home(load_config().home)), json.dumps(spares))


if __name__ == "__main__":
    main()
