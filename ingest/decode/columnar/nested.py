"""Arrow values of any type, nested or not, to the values of a column."""

import pyarrow as pa
import pyarrow.compute as pc

from catalog.schema import LogicalType, arrow_type, parse_type
from duckmesh.kernel.errors import Invalid
from ingest.decode.columnar.lists import list_parts, rebuilt
from ingest.decode.columnar.problems import ElementProblems, Problems
from ingest.decode.columnar.texts import enclosed, json_texts, quoted
from ingest.decode.columnar.types import is_list, is_text, logical_type_of, plain_type, storage_type
from ingest.decode.columnar.values import of_texts, simple_values, wrong
from ingest.decode.reading import Document
from ingest.decode.refusals import ValueRefused, shown
from ingest.decode.values import converter

_JSON = LogicalType(kind="json")
_to_json = converter(_JSON)


def converted(array: pa.Array, type_: LogicalType, problems: Problems) -> pa.Array:
    """The values as a column of this type stores them; if there are problems, they are told and the answer is void.

    Strings in a json column are JSON texts. The array is valid. Raises `ValueRefused` if no value of the array's type
    can be the column's.
    """
    stored, extension = _stored(array)
    if pa.types.is_null(stored.type):
        return pa.nulls(len(stored), arrow_type(str(type_)))
    if type_.kind == "json":
        return of_texts(stored, _JSON, problems, _parsed) if is_text(stored.type) else json_values(array, problems)
    if type_.kind == "bool" and extension == "arrow.bool8":
        return stored.cast(pa.bool_())
    if type_.item is not None:
        return _lists(stored, type_, problems)
    return simple_values(stored, type_, problems)


def _stored(array: pa.Array) -> tuple[pa.Array, str]:
    """The array without dictionary and extensions, and the name of the extension."""
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    extension = ""
    while isinstance(array.type, pa.BaseExtensionType):
        extension, array = array.type.extension_name, array.storage
    return array, extension


def _lists(array: pa.Array, type_: LogicalType, problems: Problems) -> pa.Array:
    assert type_.item is not None
    if not is_list(array.type):
        raise wrong(array, "a list")
    parts = list_parts(array)
    values = converted(parts.values, type_.item, ElementProblems(problems, parents=parts.parents))
    same = values is parts.values and array.type.equals(arrow_type(str(type_)), check_metadata=True)
    return array if same else rebuilt(parts, values)


def json_values(array: pa.Array, problems: Problems) -> pa.Array:
    """JSON texts of values of any type. A string is a JSON string, unless its type says that it holds JSON."""
    stored, extension = _stored(array)
    if pa.types.is_null(stored.type) or extension == "arrow.json":
        return converted(stored, _JSON, problems)
    if pa.types.is_struct(stored.type):
        return _objects(stored, problems)
    if pa.types.is_map(stored.type):
        return _maps(stored, problems)
    if is_list(stored.type):
        parts = list_parts(stored)
        items = json_values(parts.values, ElementProblems(problems, parents=parts.parents))
        return enclosed("[", pc.binary_join(rebuilt(parts, pc.fill_null(items, "null")), ","), "]")
    type_ = parse_type({"arrow.uuid": "uuid", "arrow.bool8": "bool"}.get(extension) or logical_type_of(stored.type))
    return json_texts(converted(array, type_, problems), type_)


def _parsed(text: object) -> tuple[object, object]:
    assert isinstance(text, str)
    try:
        value = Document(text.encode(), name="The value").payload()
    except Invalid as error:
        raise ValueRefused(f"holds text that is not JSON: {error.message}") from None
    return ("null", None) if value is None else _to_json(value)


def _objects(array: pa.Array, problems: Problems) -> pa.Array:
    members = []
    for field, values in zip(array.type, array.flatten(), strict=True):
        texts = pc.fill_null(json_values(values, problems), "null")
        name = quoted(pa.array([field.name]))[0].as_py()
        members.append(enclosed(f"{name}:", texts, ""))
    inner = pc.binary_join_element_wise(*members, ",") if members else pa.array([""] * len(array))
    return pc.if_else(array.is_valid(), enclosed("{", inner, "}"), pa.scalar(None, pa.string()))


def _maps(array: pa.Array, problems: Problems) -> pa.Array:
    if not is_text(storage_type(plain_type(array.type.key_type))):
        raise ValueRefused(f"has keys that are no strings but {shown(str(array.type.key_type))}")
    entry = pa.struct([("key", array.type.key_type), ("value", array.type.item_type)])
    parts = list_parts(array.cast(pa.list_(entry)))
    of_entries = ElementProblems(problems, parents=parts.parents)
    keys, items = parts.values.flatten()
    keys, _ = _stored(keys)
    seen = set()
    for place, key in enumerate(zip(parts.parents.to_pylist(), keys.to_pylist(), strict=True)):
        if key in seen:
            of_entries.add(place, f"repeats the key {shown(key[1])!r}")
        seen.add(key)
    texts = pc.fill_null(json_values(items, of_entries), "null")
    members = pc.binary_join_element_wise(quoted(keys.cast(pa.string())), texts, ":")
    return enclosed("{", pc.binary_join(rebuilt(parts, members), ","), "}")
