"""What the writers of the formats share."""

from collections.abc import Sequence


class Sink:
    """A file to write to whose bytes are taken away as they come."""

    def __init__(self) -> None:
        self._pending: list[bytes] = []
        self._size = 0
        self.closed = False

    def write(self, data: bytes) -> int:
        self._pending.append(bytes(data))
        self._size += len(data)
        return len(data)

    def flush(self) -> None:
        """Nothing waits elsewhere."""

    def tell(self) -> int:
        return self._size

    def close(self) -> None:
        self.closed = True

    def take(self) -> bytes:
        """All that was written since the last call."""
        data = b"".join(self._pending)
        self._pending.clear()
        return data


def distinct(names: Sequence[str]) -> list[str]:
    """The names; one that occurs again gets the first of `_1`, `_2`, … that no other column has."""
    taken, found = set(names), set()
    result = []
    for name in names:
        chosen, number = name, 0
        while chosen in found or (number and chosen in taken):
            number += 1
            chosen = f"{name}_{number}"
        found.add(chosen)
        result.append(chosen)
    return result
