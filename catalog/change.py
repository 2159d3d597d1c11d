"""What a caller asks for when a table is changed: the body of `PATCH`, checked as far as it can be alone. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from catalog.definition import MODES
from catalog.schema import ParsedColumn, name_problem, parse_columns, parse_schema, parse_type
from duckmesh.kernel.errors import JSON, Invalid

_STEPS = ("add", "widen", "rename", "drop")
_KNOWN = frozenset({*_STEPS, "schema_json", "compatibility_mode"})


@dataclass(frozen=True, kw_only=True)
class WantedSchema:
    """All columns that a table is to have, in their order. `says_nullable`: the lower-case names that say it at all."""

    columns: tuple[ParsedColumn, ...]
    says_nullable: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class TableChange:
    """What is to change; existing columns are named in lower case, as the table names them before the change."""

    add: tuple[ParsedColumn, ...] = ()
    widen: Mapping[str, str] = field(default_factory=dict)
    rename: Mapping[str, str] = field(default_factory=dict)
    drop: frozenset[str] = frozenset()
    wanted: WantedSchema | None = None
    compatibility_mode: str | None = None


def parse_change(json: Mapping[str, Any]) -> TableChange:
    """The change that the body of `PATCH /v1/tables/{table}` describes; `null` stands for an absent member.

    Raises `Invalid` that names every problem.
    """
    json = {member: value for member, value in json.items() if value is not None}
    problems = [f"{name!r} is not something of a table that can be changed" for name in sorted(set(json) - _KNOWN)]
    wanted = None
    if "schema_json" in json:
        problems += [f"{step} and schema_json cannot be used together" for step in _STEPS if step in json]
        wanted = _wanted(json["schema_json"])
    widen = _widen(json.get("widen", {}), problems)
    rename = _rename(json.get("rename", {}), problems)
    drop = _drop(json.get("drop", []), problems)
    problems += [f"{name} is dropped and cannot be changed too" for name in sorted(drop & {*widen, *rename})]
    mode = json.get("compatibility_mode")
    if mode is not None and mode not in MODES:
        problems.append(f"compatibility_mode must be one of {', '.join(MODES)}")
    if problems:
        listed: list[JSON] = list(problems)
        raise Invalid("The change of the table is wrong: " + "; ".join(problems) + ".", problems=listed)
    add = parse_columns(json.get("add", []))
    return TableChange(add=add, widen=widen, rename=rename, drop=drop, wanted=wanted, compatibility_mode=mode)


def _wanted(schema: object) -> WantedSchema:
    columns = parse_schema(schema)
    # parse_schema has seen to it that these are objects with a name each.
    items = schema["columns"] if isinstance(schema, dict) else []
    return WantedSchema(
        columns=columns, says_nullable=frozenset(item["name"].lower() for item in items if "nullable" in item)
    )


def _widen(value: object, problems: list[str]) -> dict[str, str]:
    types: dict[str, str] = {}
    for name, text in _pairs(value, 'widen must be {"column": "type"}', problems):
        try:
            types[name] = str(parse_type(text))
        except Invalid as error:
            problems.append(f"widen: {name}: {error.message}")
    return types


def _rename(value: object, problems: list[str]) -> dict[str, str]:
    pairs = dict(_pairs(value, 'rename must be {"old": "new"}', problems))
    problems += [f"rename: {new[:100]!r}: {reason}" for new in pairs.values() if (reason := name_problem(new))]
    return pairs


def _pairs(value: object, form: str, problems: list[str]) -> list[tuple[str, str]]:
    if not isinstance(value, dict) or not all(isinstance(each, str) for pair in value.items() for each in pair):
        problems.append(form)
        return []
    pairs = [(name.lower(), text) for name, text in value.items()]
    if len({name for name, _ in pairs}) < len(pairs):
        problems.append(f"{form}, with each column once (names compare without case)")
    return pairs


def _drop(value: object, problems: list[str]) -> frozenset[str]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        problems.append("drop must be a list of column names")
        return frozenset()
    return frozenset(name.lower() for name in value)
