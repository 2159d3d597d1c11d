"""The reviewed list of DuckDB's functions, functions.txt: which a tenant's SQL may call, and why not the others."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FUNCTIONS_FILE = Path(__file__).with_name("functions.txt")
SCALAR, TABLE = "function", "table function"
UNREVIEWED = "nobody has reviewed it yet"
_ALLOWED = "allowed"

# What must never be allowed, whether this DuckDB has it or an extension or another build.
DENIED: Mapping[str, str] = {
    "it is one of DuckDB's own internals, which trust their caller": (
        r"__internal.*|combine|finalize|create_sort_key|icu_sort_key|icu_collate_.*|remap_struct|constant_or_null|stats|vector_type"
        r"|can_cast_implicitly|cast_to_type|make_type|get_type|replace_type|timetz_byte_comparable|is_histogram_other_bin"
        r"|unpivot_list|get_block_size|test_.*|summary"
        r"|variant_(bytes_to_variant|normalize|to_parquet_variant)|parse_duckdb_log_message"
    ),
    "it runs SQL inside of SQL": r"json_(de)?serialize_.*|json_execute.*|query|query_table",
    "it reaches files, the network, memory, the environment or secrets": (
        r"read_.*|write_.*|glob|sniff.*|parquet_.*|getenv|which_secret|inet_.*|(http|s3|arrow|pandas|python|seq|index)_.*"
    ),
    "it tells of settings, variables, the catalog or identity": (
        r"current_(setting|database|catalog|schemas?|query|query_id|connection_id|transaction_id|role|user)|session_user|user|version"
        r"|getvariable|in_search_path|txid_current|map_to_pg_oid|format_(pg_)?type|(col|obj|shobj)_description|has_.*_privilege"
        r"|(duckdb|pragma|sql)_.*|pg_(?!typeof|size_pretty).*|icu_calendar_names"
    ),
    "it keeps state or has effects": (
        r"nextval|currval|setseed|error|sleep_ms|checkpoint|force_checkpoint|(enable|disable|truncate)_.*|set_config"
    ),
    "it needs a geometry type that tables cannot have": r"st_.*",
}


@dataclass(frozen=True, kw_only=True, order=True)
class Listed:
    """A function of DuckDB's by its kind and its name in lower case, and why it is refused; empty if it is allowed."""

    kind: str
    name: str
    refusal: str = ""


def reason_against(name: str) -> str:
    """Why no function of this name may be called; empty if no pattern names it."""
    return next((reason for reason, names in DENIED.items() if re.fullmatch(names, name)), "")


@cache
def reviewed(kind: str) -> Mapping[str, str]:
    """The functions of this kind by name, with the reason for their refusal; empty for those that are allowed."""
    listed = parse(FUNCTIONS_FILE.read_text(encoding="utf-8"))
    return {function.name: function.refusal for function in listed if function.kind == kind}


@cache
def allowed(kind: str) -> frozenset[str]:
    """The names of this kind that statements may use."""
    return frozenset(name for name, refusal in reviewed(kind).items() if not refusal)


def parse(text: str) -> list[Listed]:
    """The functions in the lines of functions.txt."""
    rows = (line.split("\t") for line in text.splitlines() if line and not line.startswith("# "))
    return [
        Listed(kind=kind, name=name, refusal="" if verdict == _ALLOWED else verdict) for kind, name, verdict in rows
    ]


def render(functions: Iterable[Listed], *, version: str) -> str:
    """The text of functions.txt."""
    return (
        f"# The functions of DuckDB {version}: kind, name, and `{_ALLOWED}` or why a tenant's SQL may not call it.\n"
        "# `python -m query.list_functions` brings it up to date; what is new is refused until it is reviewed here.\n"
        + "".join(
            f"{function.kind}\t{function.name}\t{function.refusal or _ALLOWED}\n" for function in sorted(functions)
        )
    )
