"""Objects in a bucket of an S3 service, below a prefix, through MinIO's client.

What a failure means depends on how far the request came. A connection that was never made leaves nothing behind;
one that broke while an object was being written leaves us not knowing. Reads are tried again by themselves, writes
only until they are connected: the caller writes a new key, or looks first.
"""

import io
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit
from uuid import uuid4

import certifi
import urllib3
from minio import Minio
from minio.deleteobjects import DeleteObject
from minio.error import InvalidResponseError, S3Error, ServerError
from urllib3 import BaseHTTPResponse
from urllib3.exceptions import HTTPError

from storage.errors import ObjectExists
from storage.keys import normalise
from storage.s3_errors import has_code, translated
from storage.store import Keys, ObjectInfo

PART_BYTES = 16 * 2**20
_CHUNK = 2**20

_CONNECTION: dict[str, Any] = {  # Any: the keywords of PoolManager() are of several types
    "maxsize": 16,
    "timeout": urllib3.Timeout(connect=5, read=60),
    "cert_reqs": "CERT_REQUIRED",
    "ca_certs": os.environ.get("SSL_CERT_FILE") or certifi.where(),
}

_READ_RETRY = urllib3.Retry(
    total=3,
    allowed_methods=None,
    backoff_factor=0.1,
    status_forcelist=(500, 502, 503, 504),
    raise_on_status=False,
    respect_retry_after_header=False,
    redirect=0,
)
_WRITE_RETRY = urllib3.Retry(total=3, connect=3, read=0, status=0, other=0, redirect=0, backoff_factor=0.1)


class S3Store:
    """An `ObjectStore` in `bucket`, below `prefix`."""

    def __init__(
        self,
        *,
        bucket: str,
        prefix: str,
        endpoint: str,
        region: str,
        access_key: str,
        secret_key: str,
        secure: bool,
        autocreate_bucket: bool,
    ) -> None:
        self._bucket = bucket
        self._prefix = normalise(prefix) + "/" if prefix else ""
        self._connect: dict[str, Any] = {  # Any: the keywords of Minio() are of several types
            "endpoint": endpoint,
            "region": region,
            "access_key": access_key,
            "secret_key": secret_key,
            "secure": secure,
        }
        self._autocreate_bucket = autocreate_bucket
        self._lock = threading.Lock()
        self._sessions: dict[int, _Session] = {}

    @property
    def local_root(self) -> Path | None:
        return None

    def put(self, key: str, data: bytes) -> ObjectInfo:
        return self._put(normalise(key), io.BytesIO(data), len(data))

    def put_file(self, key: str, path: Path) -> ObjectInfo:
        key = normalise(key)
        with translated(key), path.open("rb") as file:
            info = self._put(key, file, path.stat().st_size)
        with suppress(OSError):  # the object is there; a file too many harms nobody
            path.unlink()
        return info

    def get(self, key: str) -> bytes:
        return b"".join(self._read(normalise(key)))

    def get_range(self, key: str, start: int, length: int) -> bytes:
        if length == 0:
            self.stat(key)
            return b""
        try:
            return b"".join(self._read(normalise(key), offset=start, length=length))
        except _RangeBeyondEnd:
            return b""

    def fetch(self, key: str, path: Path) -> None:
        partial = path.with_name(f"{path.name}.{uuid4()}.part")
        try:
            with translated(key):
                with partial.open("xb") as file:
                    for chunk in self._read(normalise(key)):
                        file.write(chunk)
                partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    def stat(self, key: str) -> ObjectInfo:
        key = normalise(key)
        with translated(key):
            found = self._session().client.stat_object(self._bucket, self._prefix + key)
            return _info(key, found.size, found.last_modified)

    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        parent, slash, _ = prefix.rpartition("/")
        if slash:
            normalise(parent)
        with translated(prefix):
            found = self._session().client.list_objects(
                self._bucket,
                prefix=self._prefix + prefix,
                recursive=True,
                start_after=self._prefix + after if after else None,
            )
            for item in found:
                name = item.object_name or ""
                yield _info(name.removeprefix(self._prefix), item.size, item.last_modified)

    def delete_many(self, keys: Iterable[str]) -> Keys:
        given = {self._prefix + normalise(key): key for key in keys}
        with translated("bulk delete"):
            errors = self._session().client.remove_objects(self._bucket, map(DeleteObject, given))
            failed = [error.name or "" for error in errors if error.code != "NoSuchKey"]
        return [given.get(name, name) for name in failed]

    def ping(self) -> None:
        with translated("ping"):
            client = self._session().client
            # A listing of one key and not a HEAD: its refusal has a body that says why.
            next(client.list_objects(self._bucket, prefix=self._prefix, recursive=True), None)

    def _put(self, key: str, data: BinaryIO, length: int) -> ObjectInfo:
        name = self._prefix + key
        with translated(key):
            session = self._session()
            if not self._refuses_overwrites(session) and self._exists(session.client, name):
                raise ObjectExists("An object of this key exists", key=key)
        with translated(key, writing=True):
            result = session.client.put_object(
                self._bucket, name, data, length, part_size=PART_BYTES, num_parallel_uploads=1
            )
        headers: Mapping[str, str] = result.http_headers
        answered = headers.get("date")
        return _info(key, length, parsedate_to_datetime(answered) if answered else None)

    def _read(self, key: str, *, offset: int = 0, length: int = 0) -> Iterator[bytes]:
        with translated(key):
            try:
                response = self._session().client.get_object(
                    self._bucket, self._prefix + key, offset=offset, length=length
                )
            except S3Error as exc:
                if has_code(exc, "InvalidRange"):
                    raise _RangeBeyondEnd from None
                raise
            try:
                yield from response.stream(_CHUNK)
            finally:
                response.close()
                response.release_conn()

    def _exists(self, client: Minio, name: str) -> bool:
        try:
            client.stat_object(self._bucket, name)
        except S3Error as exc:
            if has_code(exc, "NoSuchKey"):
                return False
            raise
        return True

    def _session(self) -> "_Session":
        """This process's connections; a forked child makes its own. Makes the bucket first, where that is allowed."""
        pid = os.getpid()
        if (held := self._sessions.get(pid)) is not None:
            return held
        with self._lock:
            if pid not in self._sessions:
                if self._autocreate_bucket:
                    self._make_bucket()
                self._sessions[pid] = _Session(self._connect)
            return self._sessions[pid]

    def _make_bucket(self) -> None:
        plain = Minio(**self._connect, http_client=urllib3.PoolManager(retries=_READ_RETRY, **_CONNECTION))
        try:
            if not plain.bucket_exists(self._bucket):
                plain.make_bucket(self._bucket)
        except S3Error as exc:
            if not has_code(exc, "BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
                raise

    def _refuses_overwrites(self, session: "_Session") -> bool:
        """Whether the server honours `If-None-Match`, found out once by writing an object of ours twice."""
        with session.lock:
            if session.refuses_overwrites is None:
                name = f"{self._prefix}_duckmesh/probe-{uuid4()}"
                session.client.put_object(self._bucket, name, io.BytesIO(b"1"), 1)
                try:
                    session.client.put_object(self._bucket, name, io.BytesIO(b"2"), 1)
                    session.refuses_overwrites = False
                except (S3Error, ServerError, InvalidResponseError) as exc:
                    session.refuses_overwrites = has_code(exc, "PreconditionFailed")
                with suppress(S3Error, ServerError, InvalidResponseError, HTTPError):
                    session.client.remove_object(self._bucket, name)
            return session.refuses_overwrites


class _Session:
    """A client with its connections, and what is known of its server."""

    def __init__(self, connect: Mapping[str, Any]) -> None:
        self.client = Minio(**connect, http_client=_Connections(**_CONNECTION))
        self.lock = threading.Lock()
        self.refuses_overwrites: bool | None = None


class _Connections(urllib3.PoolManager):
    """Tries again what is safe to try again, and asks the server to refuse overwrites."""

    # Any: urllib3 leaves the keywords open, and departs itself from the signature of its base class here.
    def urlopen(self, method: str, url: str, redirect: bool = True, **keywords: Any) -> BaseHTTPResponse:  # type: ignore[override]
        query = urlsplit(url).query
        finishes_upload = method == "POST" and query.startswith("uploadId=")
        if finishes_upload or (method == "PUT" and "partNumber=" not in query):
            keywords["headers"]["If-None-Match"] = "*"
        changes_nothing_twice = method in ("GET", "HEAD", "DELETE") or query.startswith("delete=")
        keywords["retries"] = _READ_RETRY if changes_nothing_twice else _WRITE_RETRY
        return super().urlopen(method, url, redirect, **keywords)


class _RangeBeyondEnd(Exception):
    """The range begins where the object has ended."""


def _info(key: str, size: int | None, modified: datetime | None) -> ObjectInfo:
    return ObjectInfo(key=key, size=size or 0, modified=modified or datetime.now(UTC))
