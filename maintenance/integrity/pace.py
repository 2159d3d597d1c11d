"""What keeps a run that reads everything from being all that a machine or a store does, and tells how far it is."""

import time
from dataclasses import dataclass, field

from maintenance.job import Progress

_TOLD_EVERY = 0.5


@dataclass(kw_only=True)
class Pace:
    """Bytes a second are bounded, and the progress is told, and asked whether to stop, now and then."""

    progress: Progress
    bytes_per_second: int
    phase: str = ""
    done: float = 0.0
    _began: float = field(default_factory=time.monotonic)
    _bytes: int = 0
    _told: float = 0.0

    def at(self, phase: str, done: float) -> None:
        """The run is in this phase, and so much of all its work is done."""
        self.phase, self.done = phase, min(done, 1.0)
        self.tell()

    def spent(self, size: int) -> None:
        """So many bytes were read. Returns when there is time for the next."""
        self._bytes += size
        self.tell()
        if not self.bytes_per_second:
            return
        while (early := self._began + self._bytes / self.bytes_per_second - time.monotonic()) > 0:
            time.sleep(min(early, _TOLD_EVERY))
            self.tell()

    def tell(self) -> None:
        """Raises what the progress does when the run must stop."""
        if time.monotonic() - self._told >= _TOLD_EVERY:
            self.progress.at(self.phase, self.done)
            self._told = time.monotonic()
