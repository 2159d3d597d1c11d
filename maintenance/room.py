"""How much of the scratch directory's disk a piece of work may take. Pure.

Measured on files of 60-byte rows in zstd: a sort spills up to three times what its input takes as Parquet, a file that
is written in the order of its inputs nothing, and no output was larger than 1.2 times its inputs.
"""

from maintenance.planning import Fold, Work
from maintenance.slices import SliceKind

_SPILL = 4
_OUTPUT = 1.5


def room_needed(item: Work, *, sorts: bool, fetches: bool) -> int:
    """The bytes of the disk that the work may need at once.

    `sorts` says that a merge sorts its rows, as every other slice does, `fetches` that inputs are copied to the disk.
    """
    read = item.input_bytes
    spilled = 0 if not sorts and not isinstance(item, Fold) and item.kind == SliceKind.MERGE else _SPILL * read
    return int(_OUTPUT * read) + spilled + (read if fetches else 0)
