"""SQL that shows the live rows of a keyed table: per key the last operation by token, unless it is a delete. Pure text.

Rows come in two kinds. *Folded* ones are the last word about their key as far as they reach: no key twice, no delete.
*Fresh* ones are operations, later than the folded row of their key if there is one.
"""

from collections.abc import Sequence

from storage.columns import OP_COLUMN, TOKEN_COLUMN
from storage.reading import quote_name

OP_DELETE = 1
"""What `_duckmesh_op` holds in a row that says that its key is gone."""


def latest_sql(*, folded: str | None, fresh: str | None, columns: Sequence[str], key: Sequence[str]) -> str:
    """A SELECT of `columns` of the live rows.

    `folded` and `fresh` are FROM-able and yield the columns, the token and the operation; key columns hold no NULL.
    """
    names = ", ".join(map(quote_name, columns))
    if folded is None and fresh is None:
        raise ValueError("a relation without rows has to be given as one")
    if fresh is None:
        return f"SELECT {names} FROM {folded}"
    last = f"SELECT {names} FROM ({last_sql(fresh=fresh, key=key)}) WHERE {OP_COLUMN} IS DISTINCT FROM {OP_DELETE}"
    if folded is None:
        return last
    return f"{untouched_sql(folded=folded, fresh=fresh, columns=columns, key=key)} UNION ALL {last}"


def last_sql(*, fresh: str, key: Sequence[str]) -> str:
    """A SELECT of the fresh rows that no later one of the same key replaces, the deletes among them."""
    keys = ", ".join(map(quote_name, key))
    return f"SELECT * FROM {fresh} QUALIFY row_number() OVER (PARTITION BY {keys} ORDER BY {TOKEN_COLUMN} DESC) = 1"


def untouched_sql(*, folded: str, fresh: str, columns: Sequence[str], key: Sequence[str]) -> str:
    """A SELECT of the folded rows whose key has no operation among the fresh ones."""
    # A LEFT JOIN whose matches are thrown away: a condition on the key reaches both sides of it, and so prunes both
    # scans. Through an ANTI JOIN or a CTE it reaches one. A key that is twice in `fresh` only multiplies what goes.
    names = ", ".join(f"f.{quote_name(name)}" for name in columns)
    aliases = [f"_duckmesh_key_{number}" for number in range(len(key))]
    keys = ", ".join(f"{quote_name(name)} AS {alias}" for name, alias in zip(key, aliases, strict=True))
    same = " AND ".join(f"f.{quote_name(name)} = d.{alias}" for name, alias in zip(key, aliases, strict=True))
    operations = f"(SELECT {keys} FROM {fresh}) d"
    return f"SELECT {names} FROM {folded} f LEFT JOIN {operations} ON {same} WHERE d.{aliases[0]} IS NULL"
