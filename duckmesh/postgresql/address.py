"""A database's address as Django's settings want it."""

from urllib.parse import unquote, urlsplit


def parts(url: str) -> dict[str, str]:
    """NAME, USER, PASSWORD, HOST and PORT of a `postgresql://` address."""
    found = urlsplit(url)
    return {
        "NAME": unquote(found.path.lstrip("/")) or "duckmesh",
        "USER": unquote(found.username or ""),
        "PASSWORD": unquote(found.password or ""),
        "HOST": found.hostname or "",
        "PORT": str(found.port or ""),
    }
