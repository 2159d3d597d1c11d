"""Large payloads go to the object store before they are published, so that they do not pass through PostgreSQL.

The row comes first, in a transaction of its own: an object that a crash leaves behind has a row without an event, by
which housekeeping finds it.
"""

from uuid import uuid4

import structlog
from django.db import DatabaseError, InterfaceError, OperationalError
from django.db.models.functions import Now

from catalog.identity import delete_objects
from duckmesh.kernel.errors import DuckMeshError
from ingest.decode.spool import Spool
from ingest.models import IngestStaged
from ingest.publishing import unavailable
from storage.keys import normalise
from storage.store import ObjectStore

log = structlog.get_logger(__name__)


def stage(*, tenant_id: str, payload: Spool, store: ObjectStore) -> int:
    """The payload lies in the store; the row with this id names it. Raises `Unavailable`, and what the store does."""
    path = normalise(f"_staged/{tenant_id}/{uuid4()}.envelope")
    try:
        row = IngestStaged.objects.create(tenant_id=tenant_id, path=path, size_bytes=payload.size_bytes)
    except (OperationalError, InterfaceError) as exc:
        raise unavailable() from exc
    if payload.path is None:
        store.put(path, payload.getvalue())
    else:
        payload.flush()
        store.put_file(path, payload.path)
    return int(row.staged_id)


def unstage(*, staged_id: int, store: ObjectStore) -> None:
    """What was staged for a request that came to nothing is gone, unless its request did come to something after all.

    Only tidiness: housekeeping finds what is left.
    """
    unused = IngestStaged.objects.filter(staged_id=staged_id, event=None, doomed_at=None)
    try:
        path = unused.values_list("path", flat=True).first()
        if path is not None and unused.update(doomed_at=Now()) and not delete_objects(store=store, keys=[path]):
            IngestStaged.objects.filter(staged_id=staged_id).delete()
    except (DatabaseError, InterfaceError, DuckMeshError):
        log.warning("unstage_failed", staged_id=staged_id)
