"""Logical types, columns and table schemas: what a table looks like, as values. No Django, no database.

A type has one canonical spelling (`decimal(10,2)`, `list<int64>`): that is stored, shown and compared.
Inside, a column is known by its field id (data files carry it: a rename costs nothing); outside, by its name.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import pyarrow as pa

from duckmesh.kernel.errors import JSON, Invalid
from storage.columns import FIELD_ID_KEY, HOLDS_KEY, OP_COLUMN, OP_FIELD_ID, TYPE_KEY

MAX_COLUMNS = 1_000
MAX_LIST_DEPTH = 4
MAX_DECIMAL_PRECISION = 38
RESERVED_PREFIX = "_duckmesh"

# Each simple type's Arrow and DuckDB counterpart. uuid and json travel as text and are cast when written.
_SIMPLE: dict[str, tuple[pa.DataType, str]] = {
    "bool": (pa.bool_(), "BOOLEAN"),
    "int32": (pa.int32(), "INTEGER"),
    "int64": (pa.int64(), "BIGINT"),
    "float32": (pa.float32(), "FLOAT"),
    "float64": (pa.float64(), "DOUBLE"),
    "string": (pa.string(), "VARCHAR"),
    "binary": (pa.binary(), "BLOB"),
    "date": (pa.date32(), "DATE"),
    "timestamp": (pa.timestamp("us"), "TIMESTAMP"),
    "json": (pa.string(), "JSON"),
    "uuid": (pa.string(), "UUID"),
}
TYPE_NAMES = (*_SIMPLE, "decimal(p,s)", "list<T>")

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
_DECIMAL = re.compile(r"decimal\((\d{1,3}),(\d{1,3})\)", re.ASCII)
_SPACE = re.compile(r"\s+")
_LONGEST_TYPE = 100


@dataclass(frozen=True, kw_only=True)
class LogicalType:
    """A parsed type; `str()` gives its canonical spelling."""

    kind: str
    precision: int = 0
    scale: int = 0
    item: "LogicalType | None" = None

    def __str__(self) -> str:
        if self.kind == "decimal":
            return f"decimal({self.precision},{self.scale})"
        return f"list<{self.item}>" if self.kind == "list" else self.kind


@dataclass(frozen=True, kw_only=True)
class ParsedColumn:
    """A column as a caller defines it, checked; it has no field id yet."""

    name: str
    type: str
    nullable: bool = True


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of one schema version. `type` is spelled canonically.

    `holds` says more of the values of a growing table's column: `wide` integers, some of which no float64 is equal
    to, or strings that are each the text of a `number`. Callers never see it.
    """

    field_id: int
    name: str
    type: str
    nullable: bool = True
    holds: str = ""


@dataclass(frozen=True, kw_only=True)
class TableSchema:
    """The columns of a table in one of its schema versions, in the order they are shown."""

    version: int
    columns: tuple[Column, ...]

    @cached_property
    def by_folded_name(self) -> Mapping[str, Column]:
        """The columns by their lower-case names: names compare without case."""
        return {column.name.lower(): column for column in self.columns}

    def column(self, name: str) -> Column | None:
        """The column of this name, compared without case, or None if there is none."""
        return self.by_folded_name.get(name.lower())


@dataclass(frozen=True, kw_only=True)
class TableShape:
    """What the values written to a table must fit: its columns, its key, and whether new fields add columns to it."""

    schema: TableSchema
    primary_key: tuple[str, ...] = ()
    grows: bool = False
    next_field_id: int = 0


@lru_cache(maxsize=4096)
def parse_type(text: str) -> LogicalType:
    """The type that `text` spells, in any case and with spaces where they do no harm."""
    if len(text) > _LONGEST_TYPE:
        raise Invalid(f"A type is at most {_LONGEST_TYPE} characters long", type=text[:_LONGEST_TYPE])
    return _parse_type(_SPACE.sub(" ", text.strip().lower()), depth=0)


def _parse_type(text: str, *, depth: int) -> LogicalType:
    if text in _SIMPLE:
        return LogicalType(kind=text)
    compact = text.replace(" ", "")
    if compact.startswith("list<") and compact.endswith(">"):
        if depth == MAX_LIST_DEPTH:
            raise Invalid(f"Lists nest at most {MAX_LIST_DEPTH} deep", type=text)
        inner = text[text.index("<") + 1 : text.rindex(">")].strip()
        return LogicalType(kind="list", item=_parse_type(inner, depth=depth + 1))
    if match := _DECIMAL.fullmatch(compact):
        precision, scale = int(match[1]), int(match[2])
        if not 1 <= precision <= MAX_DECIMAL_PRECISION:
            raise Invalid(f"A decimal has 1 to {MAX_DECIMAL_PRECISION} digits, not {precision}", type=text)
        if scale > precision:
            raise Invalid(f"A decimal of {precision} digits cannot have {scale} after the point", type=text)
        return LogicalType(kind="decimal", precision=precision, scale=scale)
    raise Invalid(f"{text!r} is not a type; the types are {', '.join(TYPE_NAMES)}", type=text)


def arrow_type(type_: str) -> pa.DataType:
    """The Arrow type that carries values of the logical type between request, bus and file."""
    return _arrow_type(parse_type(type_))


def _arrow_type(type_: LogicalType) -> pa.DataType:
    if type_.item is not None:
        return pa.list_(_arrow_type(type_.item))
    if type_.kind == "decimal":
        return pa.decimal128(type_.precision, type_.scale)
    return _SIMPLE[type_.kind][0]


def duckdb_type(type_: str) -> str:
    """The DuckDB type in which a query sees the logical type."""
    return _duckdb_type(parse_type(type_))


def _duckdb_type(type_: LogicalType) -> str:
    if type_.item is not None:
        return f"{_duckdb_type(type_.item)}[]"
    if type_.kind == "decimal":
        return f"DECIMAL({type_.precision},{type_.scale})"
    return _SIMPLE[type_.kind][1]


def arrow_schema(schema: TableSchema, *, keyed: bool) -> pa.Schema:
    """The Arrow schema of the table's batches; a keyed table's end with the operation of each row.

    Every Arrow field is nullable: a column's own promise is kept where records are decoded, and deletes in a
    keyed table have nulls in columns whose rows never do.
    """
    fields = [_arrow_field(c.name, arrow_type(c.type), c.field_id, c.type, c.holds) for c in schema.columns]
    if keyed:
        fields.append(_arrow_field(OP_COLUMN, pa.int8(), OP_FIELD_ID, "int8"))
    return pa.schema(fields)


def _arrow_field(name: str, type_: pa.DataType, field_id: int, logical: str, holds: str = "") -> pa.Field:
    metadata = {FIELD_ID_KEY: str(field_id).encode(), TYPE_KEY: logical.encode()}
    return pa.field(name, type_, metadata=metadata | ({HOLDS_KEY: holds.encode()} if holds else {}))


def parse_schema(schema_json: object) -> tuple[ParsedColumn, ...]:
    """The columns of a `schema_json` object, `{"columns": […]}`; Invalid names every problem."""
    if not isinstance(schema_json, dict) or "columns" not in schema_json:
        raise Invalid("schema_json must be an object with a list of columns", errors=[])
    if unknown := sorted(str(key) for key in schema_json if key != "columns"):
        raise Invalid(f"schema_json has unknown members: {', '.join(unknown)[:200]}", errors=[])
    return parse_columns(schema_json["columns"])


def parse_columns(columns: object) -> tuple[ParsedColumn, ...]:
    """The columns that a list of `{"name", "type", "nullable"}` defines; Invalid names every problem."""
    if not isinstance(columns, list):
        raise Invalid("columns must be a list", errors=[])
    if len(columns) > MAX_COLUMNS:
        raise Invalid(f"A table has at most {MAX_COLUMNS} columns, not {len(columns)}", errors=[])
    parsed: list[ParsedColumn] = []
    errors: list[JSON] = []
    seen: set[str] = set()
    for index, item in enumerate(columns):
        column, problems = _parse_column(item)
        name = column.name if column else _shown_name(item)
        if name is not None and name.lower() in seen:
            problems.append("repeats the name of an earlier column (names compare without case)")
        if name is not None:
            seen.add(name.lower())
        errors += [{"index": index, "column": name, "reason": reason} for reason in problems]
        if column:
            parsed.append(column)
    if errors:
        first = errors[0]
        assert isinstance(first, dict)
        where = f"Column {first['column'] or first['index']}"
        more = f" (and {len(errors) - 1} more problems)" if len(errors) > 1 else ""
        raise Invalid(f"{where}: {first['reason']}{more}", errors=errors)
    return tuple(parsed)


def _shown_name(item: object) -> str | None:
    name = item.get("name") if isinstance(item, dict) else None
    return name[:100] if isinstance(name, str) else None


def _parse_column(item: object) -> tuple[ParsedColumn | None, list[str]]:
    if not isinstance(item, dict):
        return None, ["must be an object with name and type"]
    problems = [f"has an unknown member {str(key)[:100]!r}" for key in item if key not in {"name", "type", "nullable"}]
    name, nullable = item.get("name"), item.get("nullable", True)
    if reason := name_problem(name):
        problems.append(reason)
    if not isinstance(nullable, bool):
        problems.append("nullable must be true or false")
    canonical = ""
    if not isinstance(item.get("type"), str):
        problems.append("needs a type")
    else:
        try:
            canonical = str(parse_type(item["type"]))
        except Invalid as error:
            problems.append(error.message)
    if problems:
        return None, problems
    return ParsedColumn(name=item["name"], type=canonical, nullable=item.get("nullable", True)), []


def name_problem(name: object) -> str | None:
    """Why `name` cannot be a column's name, or None if it can."""
    if not isinstance(name, str):
        return "needs a name"
    if not _NAME.fullmatch(name):
        return "its name must be 1 to 63 letters, digits and underscores and not begin with a digit"
    if name.lower().startswith(RESERVED_PREFIX):
        return f"names that begin with {RESERVED_PREFIX} are the system's"
    return None


def with_field_ids(columns: Iterable[ParsedColumn], *, first: int) -> tuple[Column, ...]:
    """The columns with consecutive field ids from `first`."""
    return tuple(
        Column(field_id=field_id, name=column.name, type=column.type, nullable=column.nullable)
        for field_id, column in enumerate(columns, start=first)
    )


def columns_json(schema: TableSchema) -> list[JSON]:
    """The columns as callers see them: name, type, nullable. Field ids stay inside."""
    return [{"name": c.name, "type": c.type, "nullable": c.nullable} for c in schema.columns]


def schema_json(schema: TableSchema) -> dict[str, JSON]:
    """The `schema_json` of a table, which `parse_schema` takes back."""
    return {"columns": columns_json(schema)}


def to_stored(columns: Sequence[Column]) -> list[JSON]:
    """The columns as a schema version's row holds them, with their field ids."""
    return [_to_stored(column) for column in columns]


def _to_stored(column: Column) -> dict[str, JSON]:
    stored: dict[str, JSON] = {
        "field_id": column.field_id,
        "name": column.name,
        "type": column.type,
        "nullable": column.nullable,
    }
    return {**stored, "holds": column.holds} if column.holds else stored


def from_stored(stored: Iterable[JSON], *, version: int) -> TableSchema:
    """The schema that `to_stored` wrote for this version."""
    return TableSchema(version=version, columns=tuple(_from_stored(item) for item in stored))


def _from_stored(item: JSON) -> Column:
    assert isinstance(item, dict)
    field_id, name, type_, nullable = item["field_id"], item["name"], item["type"], item["nullable"]
    assert isinstance(field_id, int)
    assert isinstance(name, str)
    assert isinstance(type_, str)
    assert isinstance(nullable, bool)
    holds = item.get("holds", "")
    assert isinstance(holds, str)
    return Column(field_id=field_id, name=name, type=type_, nullable=nullable, holds=holds)
