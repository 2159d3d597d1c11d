"""What a growing table becomes with the values of a request: columns it does not have yet, and wider types. Pure.

Nothing is refused here: a value that no column can hold counts for nothing, and the way that decodes names it.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TypeVar

from catalog.schema import Column, TableSchema, TableShape, name_problem, parse_type
from ingest.decode.lattice import fits_int32, join, kind_of
from ingest.decode.number_text import Kind
from ingest.decode.plan import TablePlan, plan_of
from ingest.decode.refusals import Doubt, ValueRefused
from ingest.decode.values import converter

Result = TypeVar("Result")

# Types that JSON values come to by themselves. A column of another type takes the JSON values that fit it.
_OF_JSON = frozenset({"bool", "int64", "float64", "string", "json", "int32", "float32"})


class Growth:
    """A table's shape on its way through a request. What it has seen, its columns can hold."""

    def __init__(self, shape: TableShape, *, max_columns: int) -> None:
        self._shape = shape
        self._max_columns = max_columns
        self._columns = [*shape.schema.columns]
        self._positions = {column.name.lower(): position for position, column in enumerate(self._columns)}
        self._spellings: dict[str, int] = {}
        self._next_field_id = shape.next_field_id
        self._grown = False

    @property
    def shape(self) -> TableShape:
        """The shape by now: the very one it began with if nothing has changed."""
        if not self._grown:
            return self._shape
        schema = TableSchema(version=self._shape.schema.version, columns=tuple(self._columns))
        return replace(self._shape, schema=schema, next_field_id=self._next_field_id)

    def column(self, name: str) -> Column | None:
        """The column of this name by now."""
        position = self._position(name)
        return None if position is None else self._columns[position]

    def see(self, payload: object) -> None:
        """The columns hold the values of the payload too, if it is an object."""
        if isinstance(payload, dict):
            for name, value in payload.items():
                if value is not None:
                    self._see_value(name, value)

    def see_all(self, payloads: Iterable[object]) -> None:
        """The columns hold all of the payloads too."""
        for payload in payloads:
            self.see(payload)

    def see_kind(self, name: str, kind: Kind) -> None:
        """The column holds values of this kind too."""
        position = self._position(name)
        if position is None:
            self._add(name, kind)
        else:
            self._join(position, kind)

    def _see_value(self, name: str, value: object) -> None:
        try:
            position = self._position(name)
            if position is None:
                self._add(name, kind_of(value))
            elif not fits(self._columns[position], value):
                self._join(position, kind_of(value))
        except ValueRefused:
            return

    def _position(self, name: str) -> int | None:
        position = self._spellings.get(name)
        if position is None and (position := self._positions.get(name.lower())) is not None:
            self._spellings[name] = position
        return position

    def _add(self, name: str, kind: Kind) -> None:
        if name_problem(name) or len(self._columns) >= self._max_columns:
            return
        self._positions[name.lower()] = len(self._columns)
        self._columns.append(Column(field_id=self._next_field_id, name=name, type=kind[0], holds=kind[1]))
        self._next_field_id += 1
        self._grown = True

    def _join(self, position: int, kind: Kind) -> None:
        column = self._columns[position]
        before = (column.type, column.holds)
        if (after := join(before, kind)) != before:
            self._columns[position] = replace(column, type=after[0], holds=after[1])
            self._grown = True


def grown(shape: TableShape, payloads: Iterable[object], *, max_columns: int) -> TableShape:
    """The shape that holds the payloads too; the very same one if it does already."""
    growth = Growth(shape, max_columns=max_columns)
    growth.see_all(payloads)
    return growth.shape


def decode_growing(
    shape: TableShape,
    *,
    max_columns: int,
    fast: Callable[[TablePlan], Result],
    exact: Callable[[TablePlan], Result],
    payloads: Callable[[], Iterable[object]],
) -> tuple[Result, TableShape]:
    """What the fast way makes of some records, or else the exact way, and the table's shape that they need.

    A table that has stopped growing costs nothing more than one that never grew: only where the fast way has doubts
    are the `payloads` read, one by one, to see what they ask of the columns.
    """
    try:
        return fast(plan_of(shape)), shape
    except Doubt:
        pass
    needed = grown(shape, payloads(), max_columns=max_columns) if shape.grows else shape
    if needed is not shape:
        try:
            return fast(plan_of(needed)), needed
        except Doubt:
            pass
    return exact(plan_of(needed)), needed


def why_unknown(name: str, value: object) -> str | None:
    """Why a growing table cannot hold the value of a field that has not become a column; None for a null, it can."""
    if name_problem(name) is None:
        try:
            if value is None:
                return None
            kind_of(value)
        except ValueRefused as refused:
            return str(refused)
    return why_no_column(name)


def why_no_column(name: str) -> str:
    """Why a field of this name has not become a column of a growing table."""
    if problem := name_problem(name):
        return f"cannot become a column: {problem}"
    return "would be a column more than the table may have"


def fits(column: Column, value: object) -> bool:
    """Whether a column takes the value for another reason than its kind."""
    if column.type == "json":
        return True
    if column.type in _OF_JSON:
        return column.type == "int32" and fits_int32(value)
    try:
        converter(parse_type(column.type))(value)
    except ValueRefused:
        return False
    return True
