"""What a statement answers on a snapshot: catalog, planner and engine of the product, in this process."""

from typing import Any

from pyarrow import ipc

from catalog.readset import read_set
from query.cache import InPlace
from query.engine import Engine, EngineSettings
from query.planner import check, plan
from query.request import RunRequest
from tests.lake import Lake


def read_rows(
    lake: Lake, tenant_id: str, sql: str, *, table: str = "events", snapshot_id: int | None = None
) -> list[dict[str, Any]]:
    """The rows that `sql` answers, which may name this one table. A runner's process around it would only seal it."""
    read = read_set(tenant_id=tenant_id, names=[table], snapshot_id=snapshot_id)
    assert read is not None, "there is no such snapshot"
    check(read, names=[table])
    source = InPlace(lake.root / "objects")
    views = plan(read, tenant_id=tenant_id, source=source).views
    pieces: list[bytes] = []
    engine = Engine(tenant_dir=source.tenant_dir(tenant_id=tenant_id), settings=EngineSettings())
    engine.run(RunRequest(sql=sql, views=views), emit=lambda piece, _more: pieces.append(piece))
    rows: list[dict[str, Any]] = ipc.open_stream(b"".join(pieces)).read_all().to_pylist()
    return rows
