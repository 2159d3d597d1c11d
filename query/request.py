"""What crosses from the service to a runner and back, as values. JSON on the wire, nothing else."""

from dataclasses import asdict, dataclass
from typing import Any

from storage.reading import Changed, Part

Params = list[Any] | dict[str, Any]  # JSON values as the client sent them; the engine refuses what it cannot bind


@dataclass(frozen=True, kw_only=True)
class ViewColumn:
    """A column as the statement sees it; `duckdb_type` is text that DuckDB parses as a type."""

    name: str
    duckdb_type: str
    field_id: int


@dataclass(frozen=True, kw_only=True)
class TableView:
    """One table of the snapshot; the files of its parts are absolute paths below the tenant's directory.

    A table with `key` is read as the last state of each key: in `folded` files no key is twice and no row a delete,
    `fresh` ones hold what was written to their keys since. Without a key everything is in `folded`.
    """

    name: str
    columns: tuple[ViewColumn, ...]
    folded: tuple[Part, ...] = ()
    fresh: tuple[Part, ...] = ()
    key: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """A statement, its parameters (a list for `?`, an object for `$name`) and all tables it may read.

    With `explain` it does not run; the answer is its plan, as the one value of a column `plan`.
    """

    sql: str
    params: Params | None = None
    views: tuple[TableView, ...] = ()
    row_limit: int | None = None
    max_bytes: int = 64 * 2**20
    explain: bool = False

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(data: dict[str, Any]) -> "RunRequest":
        views = tuple(
            TableView(
                name=view["name"],
                columns=tuple(ViewColumn(**column) for column in view["columns"]),
                folded=_parts(view["folded"]),
                fresh=_parts(view["fresh"]),
                key=tuple(view["key"]),
            )
            for view in data["views"]
        )
        return RunRequest(
            sql=data["sql"],
            params=data["params"],
            views=views,
            row_limit=data["row_limit"],
            max_bytes=data["max_bytes"],
            explain=data["explain"],
        )


def _parts(data: list[dict[str, Any]]) -> tuple[Part, ...]:
    return tuple(
        Part(
            files=tuple(part["files"]),
            uniform=part["uniform"],
            changed=tuple(Changed(**column) for column in part["changed"]),
        )
        for part in data
    )


@dataclass(frozen=True, kw_only=True)
class RunAnswer:
    """An Arrow IPC stream (dictionary encoding for enums) and DuckDB's names of the columns' types.

    The stream comes from a process that ran a tenant's statement: validate it in full before trusting its offsets.
    HUGEINT is decimal128(38, 0), or text if a value has 39 digits. UHUGEINT, BIT, BIGNUM and TIME WITH TIME ZONE,
    which Arrow cannot carry, always come as text; `column_types` keeps their own names.
    `truncated`: there were more rows than `row_limit`.
    """

    arrow: bytes
    column_types: tuple[str, ...]
    row_count: int
    truncated: bool
    engine_ms: float
    queue_ms: float
