"""What the catalog refuses, by name."""

from duckmesh.kernel.errors import Conflict, Denied, NotFound, Unavailable


class TenantExists(Conflict):
    """A tenant of this id exists already."""

    code = "TENANT_EXISTS"


class TenantNotFound(NotFound):
    """There is no tenant of this id."""

    code = "TENANT_NOT_FOUND"


class TableExists(Conflict):
    """A table of this name, compared without case, exists already."""

    code = "TABLE_EXISTS"


class TableNotFound(NotFound):
    """The tenant has no table of this name, in the snapshot that was asked for."""

    code = "TABLE_NOT_FOUND"


class SchemaIncompatible(Conflict):
    """The change does not fit the table's columns, or breaks its compatibility mode."""

    code = "SCHEMA_INCOMPATIBLE"


class SnapshotNotFound(NotFound):
    """The snapshot never existed."""

    code = "SNAPSHOT_NOT_FOUND"


class SnapshotExpired(NotFound):
    """The snapshot existed and was dropped by retention."""

    code = "SNAPSHOT_EXPIRED"
    status = 410


class PublishConflict(Conflict):
    """What the publication was computed from has left the latest snapshot; nothing was changed."""

    code = "PUBLISH_CONFLICT"


class PinExists(Conflict):
    """A pin of this name exists already."""

    code = "PIN_EXISTS"


class PinNotFound(NotFound):
    """The tenant has no pin of this name."""

    code = "PIN_NOT_FOUND"


class SnapshotPinned(Conflict):
    """A pin holds the snapshot."""

    code = "SNAPSHOT_PINNED"


class IngestFailed(Conflict):
    """A write that the token covers was set aside as failed; until it is replayed or discarded it is a hole."""

    code = "INGEST_FAILED"


class HoldExists(Conflict):
    """A hold on files of this kind and name exists already."""

    code = "HOLD_EXISTS"


class HoldLost(Conflict):
    """The hold on files has ended, and cannot come back: what it held may be gone."""

    code = "HOLD_LOST"


class StoreNotOurs(Denied):
    """The object store belongs to another catalog; this one deletes nothing in it."""

    code = "STORE_NOT_OURS"


class ReadOnly(Unavailable):
    """An operator has stopped writes for the time being; nothing was written, and queries go on."""

    code = "READ_ONLY"
