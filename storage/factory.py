"""Opens the object store that the configuration names."""

from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

from duckmesh.kernel.config import Config, ConfigError
from storage.local import LocalStore
from storage.reading import GLOB_CHARACTERS
from storage.store import ObjectStore


@dataclass(frozen=True, kw_only=True)
class StoreSettings:
    """Where objects live, and how to get in."""

    url: str
    endpoint: str | None = None
    region: str = "us-east-1"
    access_key: str | None = None
    secret_key: str | None = field(default=None, repr=False)
    secure: bool = True
    autocreate_bucket: bool = False

    @classmethod
    def of(cls, config: Config) -> "StoreSettings":
        """The store's part of the configuration."""
        return cls(
            url=config.store_url,
            endpoint=config.s3_endpoint,
            region=config.s3_region,
            access_key=config.s3_access_key,
            secret_key=config.s3_secret_key,
            secure=config.s3_secure,
            autocreate_bucket=config.s3_autocreate_bucket,
        )


def open_store(settings: StoreSettings) -> ObjectStore:
    """A store for the settings; `ConfigError` if they name none. A server is not asked before it is needed."""
    url = urlsplit(settings.url)
    if url.scheme == "file":
        return LocalStore(root=_local_root(settings.url))
    if url.scheme == "s3" and url.netloc:
        if not settings.access_key or not settings.secret_key:
            raise ConfigError("An s3:// store needs DUCKMESH_S3_ACCESS_KEY and DUCKMESH_S3_SECRET_KEY")
        from storage.s3 import S3Store  # its client takes a sixth of the time in which a program starts

        return S3Store(
            bucket=url.netloc,
            prefix=unquote(url.path).strip("/"),
            endpoint=settings.endpoint or f"s3.{settings.region}.amazonaws.com",
            region=settings.region,
            access_key=settings.access_key,
            secret_key=settings.secret_key,
            secure=settings.secure,
            autocreate_bucket=settings.autocreate_bucket,
        )
    raise ConfigError("DUCKMESH_OBJECT_STORE_URL needs file:///path or s3://bucket/prefix")


def local_root(settings: StoreSettings) -> Path | None:
    """The directory of a store on this machine's disk; None if the objects are elsewhere."""
    return _local_root(settings.url) if urlsplit(settings.url).scheme == "file" else None


def _local_root(address: str) -> Path:
    url = urlsplit(address)
    path = Path(url2pathname(url.path))
    if url.netloc not in ("", "localhost") or url.query or url.fragment or not path.is_absolute():
        raise ConfigError("DUCKMESH_OBJECT_STORE_URL needs an absolute path: file:///path ")
    if found := sorted(GLOB_CHARACTERS.intersection(str(path))):
        raise ConfigError(
            f"The object store's path holds {' '.join(found)}, which DuckDB reads as a pattern; choose another "
            "directory by DUCKMESH_OBJECT_STORE_URL or DUCKMESH_HOME"
        )
    return path
