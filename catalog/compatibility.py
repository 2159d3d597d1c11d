"""What a change makes of a table's columns, or why it must not be made. Pure.

Two bounds. What was written before must be readable exactly: nobody rewrites it, so a column that is added must be
nullable, and a type may only become one that holds all its values. And the table's mode says for whom a change must
be harmless, in the words of the field:

- `backward`: what reads the new version understands the old rows: add, widen, rename, drop, and null where it was not.
- `forward`: what was made for the old version understands new rows: add, and drop what could be null before.
- `full`: both ways: the same as `forward`, as whatever it allows is also `backward`.
- `none`: nobody: as `backward`, and everything may become `json`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from catalog.change import TableChange, WantedSchema
from catalog.definition import KEY_TYPES
from catalog.errors import SchemaIncompatible
from catalog.schema import MAX_COLUMNS, Column, ParsedColumn, TableShape
from duckmesh.kernel.errors import JSON
from storage.conversion import is_convertible, item_of

_CAREFUL = ("forward", "full")


@dataclass(frozen=True, kw_only=True)
class Evolved:
    """The columns of the next version. `names`: the new name of each column that stays, by its lower-case old one."""

    columns: tuple[Column, ...]
    next_field_id: int
    names: Mapping[str, str]


def evolve(change: TableChange, *, shape: TableShape, roles: Mapping[str, str], mode: str) -> Evolved:
    """What the change makes of a table of this shape.

    `roles` says of columns (lower case) what the table needs them for: `primary key`, `partitioning`, `sort order`.
    Raises `SchemaIncompatible` that names the reason for each column.
    """
    review = _Review(mode=mode, roles=roles)
    old = {column.name.lower(): column for column in shape.schema.columns}
    kept, added = _by_steps(change, old, review) if change.wanted is None else _by_wanted(change.wanted, old)
    for name in old.keys() - kept.keys():
        review.drop(old[name])
    for name, column in kept.items():
        review.change(old[name], column)
    for new in added:
        if not new.nullable:
            review.refuse(new.name, "must be nullable: the rows that are there have no value for it")
    numbered = [
        Column(field_id=field_id, name=new.name, type=new.type)
        for field_id, new in enumerate(added, start=shape.next_field_id)
    ]
    columns = [*kept.values(), *numbered]
    _check_names(columns, review)
    if old and not columns:
        review.refuse("", "a table keeps at least one column")
    if len(columns) > MAX_COLUMNS:
        review.refuse("", f"a table has at most {MAX_COLUMNS} columns, not {len(columns)}")
    review.finish()
    if change.wanted is not None:
        place = {column.name.lower(): number for number, column in enumerate(change.wanted.columns)}
        columns.sort(key=lambda column: place[column.name.lower()])
    return Evolved(
        columns=tuple(columns),
        next_field_id=shape.next_field_id + len(numbered),
        names={name: column.name for name, column in kept.items()},
    )


def widening_problem(old: str, new: str, *, mode: str) -> str | None:
    """Why a column of the one type must not become one of the other, or None if it may."""
    if old == new:
        return None
    from_item, to_item = item_of(old), item_of(new)
    if from_item and to_item:
        return widening_problem(from_item, to_item, mode=mode)
    if new == "json" and mode == "none":
        return None
    if new == "json":
        return f"not only its type but what a {old} is would change; compatibility_mode none allows it"
    if (old, new) == ("int64", "float64"):
        return "int64 cannot become float64: beyond 2^53 not every whole number is one; take a decimal"
    if not is_convertible(from_type=old, from_holds="", to_type=new, to_holds=""):
        return f"{old} cannot become {new}: not every value of the one is one of the other"
    return None


class _Review:
    """Looks at one change of a column after the other and gathers what is wrong."""

    def __init__(self, *, mode: str, roles: Mapping[str, str]) -> None:
        self._mode, self._roles = mode, roles
        self._reasons: list[tuple[str, str]] = []

    def refuse(self, column: str, reason: str) -> None:
        self._reasons.append((column, reason))

    def drop(self, column: Column) -> None:
        if role := self._roles.get(column.name.lower()):
            self.refuse(column.name, f"cannot be dropped: the table needs it for its {role}")
        elif self._mode in _CAREFUL and not column.nullable:
            self._refuse_by_mode(column, "dropped: it is not nullable, so that readers of the old version need it")

    def change(self, old: Column, new: Column) -> None:
        if old.name.lower() != new.name.lower() and self._mode in _CAREFUL:
            self._refuse_by_mode(old, "renamed: readers of the old version would not find it")
        if old.type != new.type:
            self._retype(old, new)
        if old.nullable and not new.nullable:
            self.refuse(old.name, "cannot become non-nullable: rows that are there may have no value for it")
        if new.nullable and not old.nullable and self._mode in _CAREFUL:
            self._refuse_by_mode(old, "made nullable: readers of the old version rely on its values")

    def finish(self) -> None:
        """Raises `SchemaIncompatible` if anything is wrong."""
        if not self._reasons:
            return
        errors: list[JSON] = [{"column": column or None, "reason": reason} for column, reason in self._reasons]
        told = "; ".join(f"{column}: {reason}" if column else reason for column, reason in self._reasons[:10])
        more = f" (and {len(self._reasons) - 10} more)" if len(self._reasons) > 10 else ""
        raise SchemaIncompatible(
            f"The change does not fit the table: {told}{more}.", compatibility_mode=self._mode, errors=errors
        )

    def _retype(self, old: Column, new: Column) -> None:
        role = self._roles.get(old.name.lower())
        if reason := widening_problem(old.type, new.type, mode=self._mode):
            self.refuse(old.name, reason)
        elif role == "partitioning":
            self.refuse(old.name, "cannot be widened: files are divided by its values as they are")
        elif role == "primary key" and new.type.partition("(")[0] not in KEY_TYPES:
            self.refuse(old.name, f"cannot become {new.type}, which cannot be a key")
        elif self._mode in _CAREFUL:
            self._refuse_by_mode(old, f"widened: a reader of the old version expects a {old.type}")

    def _refuse_by_mode(self, column: Column, reason: str) -> None:
        self.refuse(column.name, f"in compatibility_mode {self._mode} it cannot be {reason}")


def _by_steps(
    change: TableChange, old: Mapping[str, Column], review: _Review
) -> tuple[dict[str, Column], tuple[ParsedColumn, ...]]:
    for name in sorted({*change.widen, *change.rename, *change.drop} - old.keys()):
        review.refuse(name, "there is no such column")
    kept = {
        name: _with_type(replace(column, name=change.rename.get(name, column.name)), change.widen.get(name))
        for name, column in old.items()
        if name not in change.drop
    }
    return kept, change.add


def _by_wanted(wanted: WantedSchema, old: Mapping[str, Column]) -> tuple[dict[str, Column], tuple[ParsedColumn, ...]]:
    kept: dict[str, Column] = {}
    for new in wanted.columns:
        name = new.name.lower()
        if name in old:
            nullable = new.nullable if name in wanted.says_nullable else old[name].nullable
            kept[name] = _with_type(replace(old[name], name=new.name, nullable=nullable), new.type)
    return kept, tuple(new for new in wanted.columns if new.name.lower() not in old)


def _with_type(column: Column, type_: str | None) -> Column:
    return column if type_ is None or type_ == column.type else replace(column, type=type_, holds="")


def _check_names(columns: list[Column], review: _Review) -> None:
    seen: set[str] = set()
    for column in columns:
        if column.name.lower() in seen:
            review.refuse(column.name, "there would be two columns of this name")
        seen.add(column.name.lower())
