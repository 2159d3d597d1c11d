"""`python -m query.list_functions` rewrites functions.txt for the installed DuckDB.

Review the difference as a change of policy. Taken are all scalar functions, aggregates and scalar macros that DuckDB
ships, less the patterns below. A pattern stands here with its reason; what none of them names is a pure function of
its arguments, or like `now()`, `random()` and `uuid()`.
"""

import re
from collections.abc import Iterable

from query.engine import DUCKDB_VERSION, shipped_functions
from query.gate import FUNCTIONS_FILE

DENIED: dict[str, str] = {
    "DuckDB's own internals, which trust their caller": (
        r"__internal.*|combine|finalize|create_sort_key|icu_sort_key|icu_collate_.*|remap_struct|constant_or_null|stats|vector_type"
        r"|can_cast_implicitly|cast_to_type|make_type|get_type|replace_type|timetz_byte_comparable|is_histogram_other_bin"
        r"|unpivot_list|get_block_size|test_.*"
        r"|variant_(bytes_to_variant|normalize|to_parquet_variant)|parse_duckdb_log_message"
    ),
    "SQL inside of SQL": r"json_(de)?serialize_.*|json_execute.*|query|query_table",
    "files, network, environment, secrets": (
        r"read_.*|write_.*|glob|sniff.*|parquet_.*|getenv|which_secret|inet_.*|(http|s3|arrow|pandas|python)_.*"
    ),
    "settings, variables, catalog and identity": (
        r"current_(setting|database|catalog|schemas?|query|query_id|connection_id|transaction_id|role|user)|session_user|user|version"
        r"|getvariable|in_search_path|txid_current|map_to_pg_oid|format_(pg_)?type|(col|obj|shobj)_description|has_.*_privilege"
        r"|(duckdb|pragma|pg|sql)_.*"
    ),
    "state and side effects": (
        r"nextval|currval|setseed|error|sleep_ms|checkpoint|force_checkpoint|(enable|disable)_.*|set_config"
    ),
    "a geometry type that tables cannot have": r"st_.*",
}
UNLISTED = ("unnest", "unlist")  # the binder knows these without any catalog entry


def reviewed(names: Iterable[str]) -> list[str]:
    """`names` and those the binder adds, sorted, without what `DENIED` matches."""
    denied = re.compile("|".join(DENIED.values()))
    return sorted({name.lower() for name in (*names, *UNLISTED)} - {n for n in names if denied.fullmatch(n.lower())})


def render(names: Iterable[str]) -> str:
    """The text of functions.txt."""
    return (
        f"# Functions a tenant's SQL may call, for DuckDB {DUCKDB_VERSION}.\n"
        "# Written by `python -m query.list_functions`, which also says what is left out and why.\n"
        + "".join(f"{name}\n" for name in reviewed(names))
    )


if __name__ == "__main__":
    FUNCTIONS_FILE.write_text(render(shipped_functions()), encoding="utf-8")
