"""The content proof of a data file: how many rows it holds, and the exact sum of their hashes.

The sum is additive over files and does not depend on the order of rows, and it sees duplicates: what a compaction
reads and what it writes must have equal proofs. Types are compared apart, by schema: 1 hashes alike as INTEGER and
BIGINT. Values that `hash()` confuses (NULL and [], [[1, 2]] and [[1], [2]], 0.0 and -0.0) are told apart here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from storage.reading import ScanColumn, quote_name

CONTENT_HASH_ALGORITHM = "duckdb-hash-sum/1"

# What DuckDB must answer for the algorithm above to mean what it meant when proofs were recorded.
GOLDEN_SQL = (
    "SELECT sum(hash(i, s, d, f, signbit(f), u, t))::HUGEINT FROM (VALUES "
    "(1::BIGINT, 'a'::VARCHAR, 1.50::DECIMAL(10, 2), 0.5::DOUBLE, '00000000-0000-0000-0000-000000000001'::UUID, "
    "TIMESTAMP '2013-01-01 05:00:00'), "
    "(NULL, 'longer than twelve bytes', -1, '-0.0'::DOUBLE, NULL, NULL)) v(i, s, d, f, u, t)"
)
GOLDEN_SUM = 27_688_422_669_197_567_514


@dataclass(frozen=True, kw_only=True)
class ContentProof:
    """`hash_sum` is an exact integer below `count` * 2**64."""

    count: int
    hash_sum: int

    def __add__(self, other: "ContentProof") -> "ContentProof":
        return ContentProof(count=self.count + other.count, hash_sum=self.hash_sum + other.hash_sum)


def proof_sql(source: str, columns: Sequence[ScanColumn]) -> str:
    """A SELECT of (row count, hash sum) over the FROM-able `source`; columns count in the order of their ids."""
    return f"SELECT count(*), {hash_sum_sql(columns)} FROM {source}"


def hash_sum_sql(columns: Sequence[ScanColumn]) -> str:
    """The aggregate that sums up the rows' hashes."""
    ordered = sorted(columns, key=lambda column: column.field_id)
    terms = [term for c in ordered for term in _terms(quote_name(c.name), c.duckdb_type.upper(), depth=0)]
    return f"coalesce(sum(hash({', '.join(terms)})), 0)::HUGEINT"


def _terms(value: str, duckdb_type: str, *, depth: int) -> list[str]:
    if duckdb_type.endswith("[]"):
        item = f"x{depth}"
        inner = ", ".join(_terms(item, duckdb_type.removesuffix("[]"), depth=depth + 1))
        hashes = f"list_transform({value}, lambda {item}: hash({item} IS NULL, {inner}))"
        return [f"{value} IS NULL", f"len({value})", hashes]
    if duckdb_type in ("FLOAT", "DOUBLE"):
        return [value, f"signbit({value})"]
    return [value]
