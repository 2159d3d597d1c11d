"""What a value written under one type must be seen as in another, said a second time: the oracle of the tests."""

import base64
import datetime as dt
import json
from decimal import Context, Decimal
from typing import Any

EXACT = Context(prec=60)


def number(value: float | Decimal) -> str:
    if isinstance(value, Decimal):
        return f"{value.normalize(EXACT):f}"
    if value == int(value) and -(2**63) <= value < 2**63:
        return str(int(value))
    return repr(value)


def as_json(value: Any, old: str) -> str:
    if value is None:
        return "null"
    if old.startswith("list<"):
        return "[" + ",".join(as_json(item, old[5:-1]) for item in value) + "]"
    if old == "json":
        return str(value)
    if old == "bool":
        return "true" if value else "false"
    if isinstance(value, int | float | Decimal):
        return number(value)
    if isinstance(value, bytes):
        value = base64.b64encode(value).decode()
    if isinstance(value, dt.datetime):
        value = value.isoformat(timespec="microseconds") + "Z"
    return json.dumps(str(value), ensure_ascii=False)


def expected(value: Any, old: str, new: str) -> Any:
    if value is None:
        return None
    if new == "json":
        return as_json(value, old)
    if new.startswith("list<"):
        return [expected(item, old[5:-1], new[5:-1]) for item in value]
    if new.startswith("decimal"):
        return Decimal(value).quantize(Decimal(1).scaleb(-int(new[8:-1].split(",")[1])), context=EXACT)
    return {"float64": float, "string/number": number}.get(new, lambda same: same)(value)


def same(value: Any) -> Any:
    """The value, so that 0.0 and -0.0 differ, and JSON does not by its spaces."""
    return json.dumps(json.loads(value)) if isinstance(value, str) and value[:1] in "{[" else repr(value)
