"""DuckDB's errors as ours: a code, and a message without our paths, our SQL or DuckDB's internals. Pure."""

import re
from dataclasses import dataclass
from typing import Any

from query.errors import QueryForbidden, QueryInvalid, QueryResourcesExceeded, RunnersUnavailable
from query.request import Params

MAX_MESSAGE = 1_000
TOO_DEEP = "The statement is nested too deeply."
MAX_PARAM_DEPTH = 16

_KIND = re.compile(r"(?:[A-Z]\w*Error: )?(?:Invalid: )?([A-Za-z ]{2,40}?) Error: ")
_TOO_DEEP = re.compile(r"((parser|binder) error: )?(max expression depth|memory exhausted)", re.IGNORECASE)
_EXCERPT = re.compile(r"\s*LINE \d+: (.*?)(?:\n|$)(?:\s*\^\s*)?", re.DOTALL)
_PATH = re.compile(r"(?:/[^\s'\",;:()\[\]]+){2,}")


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a statement has no answer. `retire`: the process that ran it must not run another."""

    code: str
    message: str
    retire: bool = False


class StatementError(Exception):
    """The statement is over; `failure` says how."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


OUT_OF_MEMORY = Failure(
    code=QueryResourcesExceeded.code, message="The statement needs more memory than one query may have.", retire=True
)
TOO_LARGE = Failure(code=QueryResourcesExceeded.code, message="The result is too large; select fewer rows or columns.")
UNREADABLE = Failure(code=RunnersUnavailable.code, message="A data file could not be read; try again.", retire=True)
BROKEN = Failure(
    code=QueryInvalid.code,
    message="DuckDB failed at this statement in a way of its own; write it differently.",
    retire=True,
)


def too_deep(text: str) -> bool:
    """DuckDB's parser or binder gave up on the nesting of the statement."""
    return _TOO_DEEP.match(text) is not None


def failure_of(text: str, *, sql: str, tenant_dir: str) -> Failure:
    """What DuckDB's error `text` means for the caller of `sql`."""
    if "arrow_large_buffer_size" in text:
        return TOO_LARGE
    if too_deep(text):
        return Failure(code=QueryInvalid.code, message=TOO_DEEP)
    kind = _KIND.match(text)
    match kind[1].lower() if kind else "":
        case "out of memory":
            return OUT_OF_MEMORY
        case "permission":
            return Failure(code=QueryForbidden.code, message="The statement asks for something that is not allowed.")
        case "io" | "http" | "interrupt" | "connection":
            # The only thing that a statement makes a runner write is a spill file.
            return OUT_OF_MEMORY if re.search(r"\bwrite\b|\bspace\b|too large", text) else UNREADABLE
        case "internal" | "fatal" | "serialization" | "":
            return BROKEN
        case _:
            return Failure(code=QueryInvalid.code, message=cleaned(text, sql=sql, tenant_dir=tenant_dir))


def cleaned(text: str, *, sql: str, tenant_dir: str) -> str:
    """`text` with nothing in it that the caller did not write, other than DuckDB's words and the caller's data."""
    body = text[text.index(kind[1]) :] if (kind := _KIND.match(text)) else text
    # Names of the system's tables; settings that are locked.
    body = re.sub(r'\n+(Did you mean|\* SET|Use "SET) .*', "", body)
    body = _EXCERPT.sub(lambda found: found[0] if _quotes(found[1], sql) else "", body)
    body = body.replace(tenant_dir, "…/")
    body = _PATH.sub(lambda found: found[0] if found[0] in sql else "…", body)
    return body.strip()[:MAX_MESSAGE]


def _quotes(excerpt: str, sql: str) -> bool:
    words = excerpt.strip().removeprefix("...").removesuffix("...").strip()
    return bool(words) and " ".join(words.split()) in " ".join(sql.split())


def params_of(params: Params | None) -> Params:
    """`params`, if DuckDB can bind each of them. Raises `StatementError`."""
    if params is None:
        return []
    named = params.items() if isinstance(params, dict) else ((str(n), v) for n, v in enumerate(params, start=1))
    for name, value in named:
        _check_param(name, value, depth=0)
    return params


def _check_param(name: str, value: Any, *, depth: int) -> None:
    """`value` is any JSON value: what a client may send is wider than what DuckDB takes."""
    problem = ""
    if isinstance(value, list):
        if depth >= MAX_PARAM_DEPTH:
            problem = "is nested too deeply"
        else:
            for item in value:
                _check_param(name, item, depth=depth + 1)
    elif isinstance(value, dict):
        problem = "is an object; pass its parts, or pass it as text and cast it to JSON"
    elif isinstance(value, str):
        if any("\ud800" <= character <= "\udfff" for character in value):
            problem = "is not valid Unicode text"
    elif isinstance(value, int) and not isinstance(value, bool) and not -(2**127) <= value < 2**128:
        problem = "is an integer of more than 128 bits; pass it as text"
    if problem:
        raise StatementError(Failure(code=QueryInvalid.code, message=f"The parameter {name} {problem}."))
