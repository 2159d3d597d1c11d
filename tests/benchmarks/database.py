"""The embedded stack's database, to fill it and to look into it."""

import json

from duckmesh.devstack.addresses import DATABASE, Memory
from duckmesh.devstack.layout import Home
from duckmesh.devstack.postgres import Postgres
from duckmesh.kernel.config import Config


def superusers(config: Config) -> str:
    """Its address, as one whom nothing in it binds."""
    home = Home(config.home)
    memory = Memory(**json.loads(home.memory.read_text(encoding="utf-8")))
    server = Postgres(data=home.root / "postgres", port=memory.postgres_port, password=memory.postgres_password)
    return server.url(DATABASE)
