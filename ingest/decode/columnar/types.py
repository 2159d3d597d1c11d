"""Arrow types: what each is called here, and which have no place in a table."""

from collections.abc import Iterator

import pyarrow as pa

from catalog.schema import MAX_DECIMAL_PRECISION, MAX_LIST_DEPTH
from ingest.decode.refusals import ValueRefused, shown
from ingest.decode.values import MAX_DEPTH

UUID_BYTES = 16
_SMALL_INTS = frozenset({"int8", "int16", "int32", "uint8", "uint16"})
_SIMPLE = {
    "null": "string",
    "bool": "bool",
    "int64": "int64",
    "uint32": "int64",
    "uint64": "decimal(20,0)",
    "halffloat": "float32",
    "float": "float32",
    "double": "float64",
    "date32[day]": "date",
    "date64[ms]": "date",
}


def logical_type_of(type_: pa.DataType) -> str:
    """The logical type that holds every value of an Arrow type, as a growing table gives it to a new column.

    A column of nulls alone has no type yet and is called a string. Raises `ValueRefused` for a type without one.
    """
    type_ = plain_type(type_)
    extension = type_.extension_name if isinstance(type_, pa.BaseExtensionType) else ""
    if known := {"arrow.uuid": "uuid", "arrow.json": "json", "arrow.bool8": "bool"}.get(extension):
        return known
    check_readable(type_)
    stored = storage_type(type_)
    if pa.types.is_struct(stored) or pa.types.is_map(stored):
        return "json"
    if is_list(stored):
        item = logical_type_of(stored.value_type)
        return "json" if item == "json" or item.count("list<") >= MAX_LIST_DEPTH else f"list<{item}>"
    return _simple(stored)


def _simple(type_: pa.DataType) -> str:
    if pa.types.is_timestamp(type_):
        return "timestamp"
    if is_text(type_):
        return "string"
    if is_binary(type_):
        return "binary"
    if pa.types.is_decimal(type_):
        if type_.precision > MAX_DECIMAL_PRECISION:
            raise ValueRefused(f"is {type_}, and a decimal has at most {MAX_DECIMAL_PRECISION} digits")
        return f"decimal({type_.precision},{type_.scale})"
    return "int32" if str(type_) in _SMALL_INTS else _SIMPLE[str(type_)]


def check_readable(type_: pa.DataType) -> None:
    """Raise `ValueRefused` if there is something in the type that no column takes."""
    for depth, part in _parts(type_):
        if depth > MAX_DEPTH:
            raise ValueRefused(f"nests deeper than {MAX_DEPTH} levels")
        if _has_no_place(part):
            raise ValueRefused(f"is {shown(str(part))}, which has no place in a table")
        if pa.types.is_dictionary(part) and pa.types.is_nested(storage_type(part.value_type)):
            raise ValueRefused("is a dictionary of nested values")
        if pa.types.is_struct(part) and len({field.name for field in part}) < part.num_fields:
            raise ValueRefused("has an object that gives one name to several fields")


def _parts(type_: pa.DataType, depth: int = 1) -> Iterator[tuple[int, pa.DataType]]:
    type_ = storage_type(plain_type(type_) if not pa.types.is_dictionary(type_) else type_)
    yield depth, type_
    if pa.types.is_dictionary(type_):
        yield depth, storage_type(type_.value_type)
    elif depth <= MAX_DEPTH:
        for position in range(type_.num_fields):
            yield from _parts(type_.field(position).type, depth + 1)


def _has_no_place(type_: pa.DataType) -> bool:
    asked = pa.types
    return bool(
        asked.is_time(type_)
        or asked.is_duration(type_)
        or asked.is_interval(type_)
        or asked.is_union(type_)
        or asked.is_run_end_encoded(type_)
        or asked.is_list_view(type_)
        or asked.is_large_list_view(type_)
        # Arrow scales such decimals by powers of ten that lie outside of its tables.
        or (asked.is_decimal(type_) and not 0 <= type_.scale <= type_.precision)
    )


def plain_type(type_: pa.DataType) -> pa.DataType:
    """The type without its dictionary."""
    return type_.value_type if pa.types.is_dictionary(type_) else type_


def storage_type(type_: pa.DataType) -> pa.DataType:
    """The type without its extensions."""
    while isinstance(type_, pa.BaseExtensionType):
        type_ = type_.storage_type
    return type_


def is_text(type_: pa.DataType) -> bool:
    """Whether values are strings."""
    return bool(pa.types.is_string(type_) or pa.types.is_large_string(type_) or pa.types.is_string_view(type_))


def is_binary(type_: pa.DataType) -> bool:
    """Whether values are bytes."""
    variable = pa.types.is_binary(type_) or pa.types.is_large_binary(type_) or pa.types.is_binary_view(type_)
    return bool(variable or pa.types.is_fixed_size_binary(type_))


def is_view(type_: pa.DataType) -> bool:
    """Whether values point into bytes that they may share."""
    return bool(pa.types.is_string_view(type_) or pa.types.is_binary_view(type_))


def is_list(type_: pa.DataType) -> bool:
    """Whether values are lists, of any layout that is read."""
    return bool(pa.types.is_list(type_) or pa.types.is_large_list(type_) or pa.types.is_fixed_size_list(type_))
