"""Columns of lists taken apart, and put together again around other values."""

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc


@dataclass(frozen=True, kw_only=True)
class ListParts:
    """The elements of all lists, the row of each of them, and what makes lists of them again."""

    values: pa.Array
    parents: pa.Array
    offsets: pa.Array
    nulls: pa.Array


def list_parts(array: pa.Array) -> ListParts:
    """The parts of lists of any layout. Elements that no list shows are not among them."""
    lengths = pc.fill_null(pc.list_value_length(array), 0).cast(pa.int64())
    ends = pc.cumulative_sum(lengths)
    return ListParts(
        values=pc.list_flatten(array),
        parents=pc.list_parent_indices(array),
        offsets=pa.concat_arrays([pa.array([0], pa.int64()), ends]).cast(pa.int32()),
        nulls=array.is_null(),
    )


def rebuilt(parts: ListParts, values: pa.Array) -> pa.Array:
    """The lists with `values` in place of their elements."""
    return pa.ListArray.from_arrays(parts.offsets, values, mask=parts.nulls)
