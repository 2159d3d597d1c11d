"""What can go wrong with bytes. Context names object keys, never a path of the server or an address."""

from duckmesh.kernel.errors import Conflict, Corrupt, Denied, Invalid, NotFound, OutcomeUnknown, Unavailable


class ObjectNotFound(NotFound):
    """The store has no object of this key."""

    code = "OBJECT_NOT_FOUND"


class ObjectExists(Conflict):
    """The key is taken: objects are never overwritten."""

    code = "OBJECT_EXISTS"


class InvalidKey(Invalid):
    """The key cannot name an object, or would leave the store's root."""

    code = "INVALID_OBJECT_KEY"


class StoreDenied(Denied):
    """The object store refused our credentials; an operator must look at them."""

    code = "OBJECT_STORE_DENIED"


class StoreUnavailable(Unavailable):
    """The object store does not answer, or has no room; nothing was written under the key."""

    code = "OBJECT_STORE_UNAVAILABLE"


class StoreOutcomeUnknown(OutcomeUnknown):
    """The connection broke after bytes of a write had been sent: the object may or may not be there."""

    code = "OBJECT_STORE_OUTCOME_UNKNOWN"


class UnwritableData(Invalid):
    """The rows cannot be written as the types their columns claim."""

    code = "UNWRITABLE_DATA"


class DataFileCorrupt(Corrupt):
    """The bytes are not the Parquet file they should be."""

    code = "DATA_FILE_CORRUPT"


class ContentHashChanged(Corrupt):
    """This DuckDB hashes values otherwise than the one that wrote the recorded content proofs."""

    code = "CONTENT_HASH_CHANGED"
