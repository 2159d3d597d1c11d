"""`python -m query.list_functions` brings functions.txt up to date with the installed DuckDB; `--check` only looks.

A function that is known keeps its verdict, one that is gone leaves the list. One that is new is refused: with a reason
if a pattern of `DENIED` names it, else because nobody has reviewed it, and then `--check` fails until its line says
`allowed` or why not. Allow what is a pure function of its arguments, or like `now()`, `random()` and `uuid()`.
"""

import argparse
import sys
from collections.abc import Iterable, Sequence

from query.engine import DUCKDB_VERSION, shipped_functions
from query.functions import FUNCTIONS_FILE, SCALAR, TABLE, UNREVIEWED, Listed, parse, reason_against, render

UNLISTED = ("unnest", "unlist")  # the binder knows these without any catalog entry


def brought_up_to_date(known: Iterable[Listed], *, shipped: Iterable[Listed]) -> list[Listed]:
    """The shipped functions, each with the verdict it has had, or refused."""
    verdicts = {(function.kind, function.name): function for function in known}
    return [
        verdicts.get((function.kind, function.name))
        or Listed(kind=function.kind, name=function.name, refusal=reason_against(function.name) or UNREVIEWED)
        for function in shipped
    ]


def problems(text: str, *, shipped: Sequence[Listed], version: str) -> list[str]:
    """What is wrong with functions.txt for a DuckDB of this version that ships these functions."""
    listed = parse(text)
    found = [] if text == render(listed, version=version) else [f"It is not the sorted list for DuckDB {version}."]
    here, there = ({(function.kind, function.name) for function in each} for each in (listed, shipped))
    found += [f"The {kind} {name} is not on the list." for kind, name in sorted(there - here)]
    found += [f"DuckDB {version} has no {kind} {name}." for kind, name in sorted(here - there)]
    for function in listed:
        if function.refusal == UNREVIEWED:
            found.append(f"The {function.kind} {function.name} is to be reviewed.")
        if not function.refusal and (reason := reason_against(function.name)):
            found.append(f"The {function.kind} {function.name} is allowed, though {reason}.")
    return found


def installed() -> list[Listed]:
    """The functions of the installed DuckDB, without a verdict."""
    scalars = {*shipped_functions(kinds=("scalar", "aggregate", "macro")), *UNLISTED}
    tables = shipped_functions(kinds=("table", "table_macro"))
    return [Listed(kind=kind, name=name) for kind, names in ((SCALAR, scalars), (TABLE, tables)) for name in names]


def main(arguments: Sequence[str]) -> int:
    """The exit status of the command."""
    parser = argparse.ArgumentParser(prog="query.list_functions", description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; status 1 if the list needs a review")
    shipped, known = installed(), FUNCTIONS_FILE.read_text(encoding="utf-8")
    if not parser.parse_args(arguments).check:
        known = render(brought_up_to_date(parse(known), shipped=shipped), version=DUCKDB_VERSION)
        FUNCTIONS_FILE.write_text(known, encoding="utf-8")
    found = problems(known, shipped=shipped, version=DUCKDB_VERSION)
    for problem in found:
        sys.stderr.write(f"query/functions.txt: {problem}\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
