"""What a caller asks for when a table is made: checked as a whole, every problem named. Pure."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from catalog.partitions import field_name
from catalog.schema import ParsedColumn, parse_schema
from duckmesh.kernel.errors import JSON, Invalid

MODES = ("backward", "forward", "full", "none")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
_TRANSFORM = re.compile(r"identity|month|day|hour|bucket\[([1-9]\d{0,4})\]")
_KNOWN = frozenset(
    {"table_name", "schema_json", "primary_key_cols", "partition_spec", "sort_cols", "compatibility_mode"}
)
# What a key column may be: equality of these is exact and the same in every engine.
KEY_TYPES = frozenset({"bool", "int32", "int64", "string", "date", "timestamp", "uuid", "decimal"})


@dataclass(frozen=True, kw_only=True)
class TableDefinition:
    """A table that may be created: names are spelled as its columns spell them."""

    name: str
    columns: tuple[ParsedColumn, ...]
    primary_key_cols: tuple[str, ...] = ()
    partition_spec: Mapping[str, Any] = field(default_factory=dict)
    sort_cols: tuple[str, ...] = ()
    compatibility_mode: str = "backward"
    grows: bool = False


def parse_definition(json: Mapping[str, Any]) -> TableDefinition:
    """The definition that the body of `POST /v1/tables` describes; `null` stands for an absent member.

    Raises `Invalid` that names every problem.
    """
    json = {member: value for member, value in json.items() if value is not None}
    problems: list[str] = [f"{name!r} is not a member of a table's definition" for name in sorted(set(json) - _KNOWN)]
    name = json.get("table_name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        problems.append("table_name must be 1 to 63 letters, digits and '_', not beginning with a digit")
        name = ""
    grows = "schema_json" not in json
    columns: tuple[ParsedColumn, ...] = () if grows else parse_schema(json["schema_json"])
    if grows:
        problems += [
            f"{member} needs schema_json: without it the table grows its columns from its data, and has none yet"
            for member in ("primary_key_cols", "partition_spec", "sort_cols")
            if json.pop(member, None)
        ]
    elif not columns and not problems:
        problems.append("schema_json names no column; without schema_json the table grows its columns from its data")
    spelled = {column.name.lower(): column for column in columns}
    key = _column_list(json, "primary_key_cols", spelled, problems)
    sort = _column_list(json, "sort_cols", spelled, problems)
    for column in key:
        kind = spelled[column.lower()].type.partition("(")[0]
        if kind not in KEY_TYPES:
            problems.append(f"primary_key_cols: {column} is {spelled[column.lower()].type}, which cannot be a key")
    partition = _partition_spec(json.get("partition_spec", {}), spelled, key, problems)
    mode = json.get("compatibility_mode", "backward")
    if mode not in MODES:
        problems.append(f"compatibility_mode must be one of {', '.join(MODES)}")
    if problems:
        listed: list[JSON] = list(problems)
        raise Invalid("The table's definition is wrong: " + "; ".join(problems) + ".", problems=listed)
    return TableDefinition(
        name=name,
        columns=columns,
        primary_key_cols=key,
        partition_spec=partition,
        sort_cols=sort,
        compatibility_mode=mode,
        grows=grows,
    )


def _column_list(
    json: Mapping[str, Any], member: str, spelled: Mapping[str, ParsedColumn], problems: list[str]
) -> tuple[str, ...]:
    value = json.get(member, [])
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        problems.append(f"{member} must be a list of column names")
        return ()
    unknown = [item for item in value if item.lower() not in spelled]
    problems += [f"{member}: there is no column {item!r}" for item in unknown]
    known = [spelled[item.lower()].name for item in value if item.lower() in spelled]
    if len(set(known)) != len(known):
        problems.append(f"{member} names a column twice")
    return tuple(known)


def _partition_spec(
    value: object, spelled: Mapping[str, ParsedColumn], key: Sequence[str], problems: list[str]
) -> dict[str, Any]:
    if value == {}:
        return {}
    fields = value.get("fields") if isinstance(value, dict) and set(value) == {"fields"} else None
    if not isinstance(fields, list):
        problems.append('partition_spec must be {"fields": [{"column", "transform"}, …]}')
        return {}
    parsed = []
    for item in fields:
        if not isinstance(item, dict) or set(item) != {"column", "transform"}:
            problems.append("partition_spec: a field has a column and a transform")
            continue
        column, transform = item["column"], item["transform"]
        known = spelled.get(column.lower()) if isinstance(column, str) else None
        if known is None:
            problems.append(f"partition_spec: there is no column {column!r}")
            continue
        if not isinstance(transform, str) or not _TRANSFORM.fullmatch(transform):
            problems.append("partition_spec: a transform is identity, month, day, hour or bucket[N]")
            continue
        if transform in ("month", "day", "hour") and known.type not in ("timestamp", "date"):
            problems.append(f"partition_spec: {transform} needs a date or timestamp, and {known.name} is {known.type}")
        if key and known.name not in key:
            # Otherwise two rows of one key could lie in two partitions and be folded apart.
            problems.append(f"partition_spec: {known.name} must be one of the primary_key_cols")
        if known.type.startswith("list<"):
            problems.append(f"partition_spec: {known.name} is a list, which is no partition")
        parsed.append({"column": known.name, "transform": transform})
    names = [field_name(column=field["column"], transform=field["transform"]) for field in parsed]
    twice = sorted({name for name in names if names.count(name) > 1})
    problems += [f"partition_spec: two fields would be called {name}" for name in twice]
    return {"fields": parsed} if parsed else {}
