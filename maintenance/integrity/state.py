"""Where an integrity run stands: what is saved as its cursor, and what it has counted."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from duckmesh.kernel.errors import JSON


class Phase(StrEnum):
    """What a run does, in this order."""

    CATALOG = "catalog"
    OBJECTS = "objects"
    CONTENTS = "contents"


@dataclass(kw_only=True)
class State:
    """The phase, the place in it, and the counts so far. What has been found is rows."""

    phase: Phase = Phase.CATALOG
    # Of the catalog: tenant and number of the check; of the objects: the prefix; of the contents: nothing.
    name: str = ""
    number: int = 0
    # Behind which the next slice begins; None at the beginning.
    after: str | int | None = None
    counts: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, cursor: Mapping[str, JSON]) -> "State":
        """The state that was saved, or that of a run at its beginning."""
        if not cursor:
            return cls()
        after, counts = cursor["after"], cursor["counts"]
        assert isinstance(after, str | int | None)
        assert isinstance(counts, dict)
        return cls(
            phase=Phase(str(cursor["phase"])),
            name=str(cursor["name"]),
            number=int(str(cursor["number"])),
            after=after,
            counts=Counter({name: int(str(count)) for name, count in counts.items()}),
        )

    @property
    def cursor(self) -> dict[str, JSON]:
        """The state as it is saved."""
        return {
            "phase": self.phase.value,
            "name": self.name,
            "number": self.number,
            "after": self.after,
            "counts": dict(self.counts),
        }

    def begin(self, phase: Phase, *, name: str = "", number: int = 0) -> None:
        """What comes next begins from its beginning."""
        self.phase, self.name, self.number, self.after = phase, name, number, None
