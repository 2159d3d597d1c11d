"""A small HTTP client on one kept-alive connection: what the demo and the tests speak to the API with."""

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One response, its body read whole."""

    status: int
    headers: Mapping[str, str]  # names in lower case
    body: bytes

    def json(self) -> Any:
        """The body as JSON; its shape is the caller's to know."""
        return json.loads(self.body)


class Api:
    """One connection to an API, with one key. Not for use by two threads at once."""

    def __init__(self, base_url: str, key: str | None = None, *, timeout: float = 60) -> None:
        self._key = key
        self._connection = http.client.HTTPConnection(urlsplit(base_url).netloc, timeout=timeout)

    def call(
        self, method: str, path: str, document: object = None, *, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """The answer to one request. `document` is sent as JSON, bytes as they are."""
        sent = dict(headers or {})
        if self._key is not None:
            sent.setdefault("Authorization", f"Bearer {self._key}")
        body = document if isinstance(document, bytes | None) else json.dumps(document).encode()
        if body is not None:
            sent.setdefault("Content-Type", "application/json")
        try:
            self._connection.request(method, path, body=body, headers=sent)
            response = self._connection.getresponse()
            return Answer(
                status=response.status,
                headers={name.lower(): value for name, value in response.getheaders()},
                body=response.read(),
            )
        except BaseException:
            self._connection.close()  # the next call opens a new one
            raise

    def close(self) -> None:
        """The connection is closed."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
