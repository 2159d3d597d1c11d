"""What compaction did, in numbers that add up, and how the files of a table are shaped. Pure.

These are what a run tells at its end and, before that, what it saves, so that a process that takes it over counts on.
"""

from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict

from duckmesh.kernel.errors import JSON
from maintenance.tiers import TableFile

_KIB, _MIB = 2**10, 2**20
_SIZES = {
    "below_64KiB": 64 * _KIB,
    "below_1MiB": _MIB,
    "below_16MiB": 16 * _MIB,
    "below_64MiB": 64 * _MIB,
    "below_256MiB": 256 * _MIB,
}
_LARGER = "larger"


class Shape(BaseModel):
    """Files by size, and how often their bytes have been written: `written_bytes` counts each rewrite of a row."""

    model_config = ConfigDict(frozen=True)

    sizes: dict[str, int] = {}
    bytes: int = 0
    written_bytes: int = 0

    @classmethod
    def of(cls, files: Iterable[TableFile]) -> "Shape":
        """The shape of these files. A file of level n holds rows that were written n + 1 times at most."""
        sizes = dict.fromkeys((*_SIZES, _LARGER), 0)
        total = written = 0
        for file in files:
            sizes[next((name for name, most in _SIZES.items() if file.size_bytes < most), _LARGER)] += 1
            total += file.size_bytes
            written += file.size_bytes * (file.level + 1)
        return cls(sizes=sizes, bytes=total, written_bytes=written)

    def __add__(self, other: "Shape") -> "Shape":
        names = self.sizes | other.sizes
        return Shape(
            sizes={name: self.sizes.get(name, 0) + other.sizes.get(name, 0) for name in names},
            bytes=self.bytes + other.bytes,
            written_bytes=self.written_bytes + other.written_bytes,
        )

    def document(self) -> dict[str, JSON]:
        """For people and programs."""
        amplification = round(self.written_bytes / self.bytes, 2) if self.bytes else 1.0
        return {
            "files": sum(self.sizes.values()),
            "bytes": self.bytes,
            "file_sizes": dict(self.sizes),
            "write_amplification": amplification,
        }


class Tally(BaseModel):
    """What slices have replaced by what."""

    model_config = ConfigDict(frozen=True)

    slices: int = 0
    input_files: int = 0
    input_rows: int = 0
    input_bytes: int = 0
    output_files: int = 0
    output_rows: int = 0
    output_bytes: int = 0
    overtaken: int = 0
    skipped: int = 0

    def __add__(self, other: "Tally") -> "Tally":
        theirs = other.model_dump()
        return Tally(**{name: value + theirs[name] for name, value in self.model_dump().items()})


class TableDone(BaseModel):
    """What was done to one table."""

    model_config = ConfigDict(frozen=True)

    tenant_id: str
    table_id: int
    table_name: str
    tally: Tally = Tally()
    before: Shape = Shape()
    after: Shape = Shape()

    def document(self) -> dict[str, JSON]:
        """For people and programs."""
        return {
            "tenant_id": self.tenant_id,
            "table_id": self.table_id,
            "table_name": self.table_name,
            **self.tally.model_dump(),
            "before": self.before.document(),
            "after": self.after.document(),
        }


class Standing(BaseModel):
    """How far a run over several tables has come: it is through with all up to `after`, and at `table`."""

    model_config = ConfigDict(frozen=True)

    after: tuple[str, int] | None = None
    examined: int = 0
    compacted: int = 0
    total: TableDone = TableDone(tenant_id="", table_id=0, table_name="")
    table: TableDone | None = None
    tables: tuple[TableDone, ...] = ()
