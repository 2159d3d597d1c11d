"""How a value stored in one version of a column is shown in another: as SQL that DuckDB runs. Pure text.

The one source of it: queries, the materialiser (envelopes of older versions) and compaction all read by it, so that a
row is the same whenever it was written and however often it was rewritten. No way through the versions matters either:
what int64 → float64 → string makes of a value is what int64 → string makes of it.

A number as text (`holds` = `number`) and as JSON has one spelling: a whole number that fits an int64 is its digits
(`1`, also for 1.0 and -0.0), every other float64 the shortest text that reads back as it (`0.1`, `1e-05`, `1e+19`), as
Python's `repr` and DuckDB's cast write it, a decimal its digits without zeros at the end. It is a JSON number.
"""

import re
from collections.abc import Callable

NUMBER = "number"

_INTEGERS = ("int32", "int64")
_FLOATS = ("float32", "float64")
_CASTS = {
    "int32": ("int64", "float64"),
    "int64": ("float64",),
    "float32": ("float64",),
}
_DUCKDB = {"int64": "BIGINT", "float64": "DOUBLE", "float32": "FLOAT", "string": "VARCHAR", "json": "JSON"}
_DECIMAL = re.compile(r"decimal\((\d+),(\d+)\)", re.ASCII)


def conversion_sql(expression: str, *, from_type: str, from_holds: str, to_type: str, to_holds: str) -> str:
    """The DuckDB expression that shows `expression`, a value of the one type, as one of the other. NULL stays NULL.

    `expression` stands in it several times. Raises `ValueError` where `is_convertible` says no.
    """
    if not is_convertible(from_type=from_type, from_holds=from_holds, to_type=to_type, to_holds=to_holds):
        raise ValueError(f"{from_type} {from_holds} cannot be shown as {to_type} {to_holds}")
    return expression if from_type == to_type else _convert(expression, from_type, from_holds, to_type, depth=0)


def is_convertible(*, from_type: str, from_holds: str, to_type: str, to_holds: str) -> bool:
    """Whether every value of the one column can be shown in the other; that int64 → float64 is exact is not said."""
    if from_type == to_type:
        return to_holds != NUMBER or from_holds == NUMBER
    if to_type == "json":
        return True
    if to_type == "string":
        return to_holds == NUMBER and (from_type in _INTEGERS or from_type in _FLOATS)
    from_item, to_item = item_of(from_type), item_of(to_type)
    if from_item and to_item:
        return is_convertible(from_type=from_item, from_holds="", to_type=to_item, to_holds="")
    return is_cast(from_type=from_type, to_type=to_type)


def is_cast(*, from_type: str, to_type: str) -> bool:
    """Whether a plain CAST shows the values, so that a scan can do it while it reads."""
    if from_type == to_type:
        return True
    from_item, to_item = item_of(from_type), item_of(to_type)
    if from_item and to_item:
        return is_cast(from_type=from_item, to_type=to_item)
    if from_type in _INTEGERS and to_type == "string":
        return True
    return to_type in _CASTS.get(from_type, ()) or _is_decimal_with_room(from_type, to_type)


def item_of(type_: str) -> str:
    """T of list<T>; empty for a type that is no list."""
    return type_.removeprefix("list<").removesuffix(">") if type_.startswith("list<") else ""


def _is_decimal_with_room(from_type: str, to_type: str) -> bool:
    """Whether every value of the one fits the other digit for digit; only integers and decimals ever do."""
    target = _DECIMAL.fullmatch(to_type)
    if target is None:
        return False
    source = _DECIMAL.fullmatch(from_type)
    if source is not None:
        whole, scale = int(source[1]) - int(source[2]), int(source[2])
    else:
        whole, scale = {"int32": 10, "int64": 19}.get(from_type, 1_000), 0
    return int(target[1]) - int(target[2]) >= whole and int(target[2]) >= scale


def _convert(value: str, from_type: str, from_holds: str, to_type: str, *, depth: int) -> str:
    if to_type == "json":
        return _as_json(value, from_type, from_holds, depth=depth)
    if item := item_of(from_type):
        return _for_each(value, lambda each: _convert(each, item, "", item_of(to_type), depth=depth + 1), depth)
    if to_type == "string":
        return _number_text(value, from_type)
    return f"CAST({value} AS {_DUCKDB.get(to_type) or to_type.upper()})"


def _for_each(value: str, convert: Callable[[str], str], depth: int) -> str:
    each = f"_x{depth}"
    return f"list_transform({value}, lambda {each}: {convert(each)})"


def _number_text(value: str, type_: str) -> str:
    if type_ in _INTEGERS:
        return f"CAST({value} AS VARCHAR)"
    if type_ in _FLOATS:
        # By value: a float32 is spelled as the float64 that equals it. The bounds are those of int64, as doubles.
        wide = f"CAST({value} AS DOUBLE)"
        fits = f"{wide} >= -9223372036854775808::DOUBLE AND {wide} < 9223372036854775808::DOUBLE"
        return (
            f"CASE WHEN {fits} AND {wide} = trunc({wide}) THEN CAST(CAST({wide} AS BIGINT) AS VARCHAR)"
            f" ELSE CAST({wide} AS VARCHAR) END"
        )
    text = f"CAST({value} AS VARCHAR)"
    if type_.endswith(",0)"):
        return text
    # Where there is no room for a digit before the point, DuckDB writes none; JSON wants one.
    return f"rtrim(rtrim(regexp_replace({text}, '^(-?)[.]', '\\10.'), '0'), '.')"


def _as_json(value: str, from_type: str, from_holds: str, *, depth: int) -> str:
    if from_type == "json":
        return value
    if item := item_of(from_type):
        return f"to_json({_for_each(value, lambda each: _as_json(each, item, '', depth=depth + 1), depth)})"
    if from_holds == NUMBER:
        return f"CAST({value} AS JSON)"
    if from_type in _INTEGERS or from_type in _FLOATS or from_type.startswith("decimal"):
        return f"CAST({_number_text(value, from_type)} AS JSON)"
    if from_type == "timestamp":
        return f"to_json(strftime({value}, '%Y-%m-%dT%H:%M:%S.%fZ'))"
    if from_type == "binary":
        return f"to_json(to_base64({value}))"
    return f"to_json({value})"
