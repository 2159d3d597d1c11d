"""How many bytes columns come to once nothing in them is shared, found without building them."""

import pyarrow as pa
import pyarrow.compute as pc

from ingest.decode.columnar.types import is_binary, is_list, is_text, is_view
from ingest.errors import PayloadTooLarge

_OFFSET = 4
_WIDEST_NUMBER = 32
_VIEW_WORDS = 4  # 32 bits each; the first is the length


class Budget:
    """What a request may still come to when it is decoded."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._spent = 0

    def spend(self, size: int) -> None:
        """So many more bytes are decoded. Raises `PayloadTooLarge` beyond the limit."""
        self._spent += size
        if self._spent > self._limit:
            raise PayloadTooLarge(
                f"The body comes to more than {self._limit} bytes when it is decoded; send it in parts",
                limit=self._limit,
            )


def decoded_bytes(array: pa.Array) -> int:
    """The bytes of the values as a plain array of them has, without dictionary and views. The array is valid."""
    if isinstance(array.type, pa.BaseExtensionType):
        return decoded_bytes(array.storage)
    type_ = array.type
    if pa.types.is_dictionary(type_):
        return _dictionary_bytes(array)
    if is_view(type_):
        return _OFFSET * len(array) + _total(_view_lengths(array))
    if pa.types.is_struct(type_):
        return sum(decoded_bytes(child) for child in array.flatten())
    if is_list(type_):
        return _OFFSET * len(array) + decoded_bytes(pc.list_flatten(array))
    if pa.types.is_map(type_):
        entries = array.cast(pa.list_(pa.struct([("key", type_.key_type), ("value", type_.item_type)])))
        return decoded_bytes(entries)
    return len(array) if pa.types.is_null(type_) else int(array.nbytes)


def _dictionary_bytes(array: pa.DictionaryArray) -> int:
    values = array.dictionary
    while isinstance(values.type, pa.BaseExtensionType):
        values = values.storage
    if pa.types.is_fixed_size_binary(values.type):
        return len(array) * int(values.type.byte_width)
    if not (is_text(values.type) or is_binary(values.type)):
        return len(array) * _WIDEST_NUMBER
    lengths = _view_lengths(values) if is_view(values.type) else pc.binary_length(values)
    return _OFFSET * len(array) + _total(lengths.take(array.indices))


def _view_lengths(array: pa.Array) -> pa.Array:
    words = pa.Array.from_buffers(
        pa.int32(), len(array) * _VIEW_WORDS, [None, array.buffers()[1]], offset=array.offset * _VIEW_WORDS
    )
    lengths = pc.list_element(pa.FixedSizeListArray.from_arrays(words, _VIEW_WORDS), 0)
    return pc.if_else(array.is_valid(), lengths, pa.scalar(0, pa.int32()))


def _total(lengths: pa.Array) -> int:
    return pc.sum(lengths.cast(pa.int64()), min_count=0).as_py() or 0
