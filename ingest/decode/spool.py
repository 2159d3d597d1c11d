"""Bytes on their way through: in memory up to a bound, beyond it in a file of their own that goes with them."""

import io
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO


@dataclass(frozen=True, kw_only=True)
class SpoolPolicy:
    """How much is held in memory, and the directory for what is larger; it is made when first needed."""

    directory: Path
    memory_bytes: int


class Spool:
    """Bytes that are written once, in order, and then read as often as they are wanted. Not for several threads."""

    def __init__(self, policy: SpoolPolicy) -> None:
        self._policy = policy
        self._memory: io.BytesIO | None = io.BytesIO()
        self._file: BinaryIO | None = None
        self.path: Path | None = None
        self.size_bytes = 0

    def write(self, data: bytes) -> None:
        """Append the bytes."""
        self.size_bytes += len(data)
        if self._memory is not None and self.size_bytes > self._policy.memory_bytes:
            self._move_to_disk(self._memory)
        target = self._memory if self._file is None else self._file
        assert target is not None, "a closed spool takes nothing"
        target.write(data)

    def open(self) -> BinaryIO:
        """The bytes written so far, from their beginning; the caller closes it."""
        if self._file is None:
            assert self._memory is not None, "a closed spool holds nothing"
            return io.BytesIO(self._memory.getvalue())  # which share the bytes
        assert self.path is not None
        self.flush()
        return self.path.open("rb")

    def flush(self) -> None:
        """What was written can be read at `path`, if it lies there."""
        if self._file is not None:
            self._file.flush()

    def getvalue(self) -> bytes:
        """All the bytes, in memory."""
        if self._file is None:
            assert self._memory is not None, "a closed spool holds nothing"
            return self._memory.getvalue()
        with self.open() as file:
            return file.read()

    def close(self) -> None:
        """The bytes are gone."""
        if self._file is not None:
            self._file.close()
        if self.path is not None:
            self.path.unlink(missing_ok=True)
        self._memory = self._file = None

    def _move_to_disk(self, memory: io.BytesIO) -> None:
        self._policy.directory.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=self._policy.directory, prefix="spool-")
        self.path, self._file = Path(name), os.fdopen(handle, "wb")
        self._file.write(memory.getbuffer())
        self._memory = None
