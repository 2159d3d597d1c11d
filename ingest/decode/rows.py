"""The records of a valid body, column by column: where the fast and the exact way meet."""

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Arrays in the table's order; the other sequences hold an item per record, or none if no record has one.

    `payloads` are canonical and empty if nothing asks for a hash. `event_span` is in microseconds since 1970.
    """

    arrays: list[pa.Array]
    ops: Sequence[int]
    payloads: Sequence[bytes]
    keys: Sequence[str | None] = ()
    event_times: Sequence[str | None] = ()
    event_span: tuple[int, int] | None = None
    wait_for_visibility: bool = False
    visibility_timeout_ms: int | None = None
