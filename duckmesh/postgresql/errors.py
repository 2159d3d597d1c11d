"""What the database refuses whoever asks, by the code with which its functions say so."""

from duckmesh.kernel.errors import Unavailable

SERVER_CHANGED = "DM002"


class CatalogServerChanged(Unavailable):
    """PostgreSQL is another server, or another history, than the catalog was last known on; nothing was written."""

    code = "CATALOG_SERVER_CHANGED"


def server_changed() -> CatalogServerChanged:
    """The error, for a client and for a log."""
    return CatalogServerChanged(
        "The database was replaced, and may have lost writes: nothing was written. It takes writes again when an"
        " operator has said what became of the old one. Reads go on.",
        retry_after=10,
    )
