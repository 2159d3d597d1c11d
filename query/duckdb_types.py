"""The parts of DuckDB's names of nested types: `STRUCT(a INTEGER, "b c" HUGEINT[])`. Pure.

An empty name means that nobody asks; its parts are empty too.
"""

_OPEN, _CLOSE, _QUOTES = "(", ")", "\"'"


def element_type(name: str) -> str:
    """The type of the items of the list or array type `name`."""
    return name[: name.rindex("[")] if name else ""


def member_types(name: str, *, count: int, named: bool) -> list[str]:
    """The types of the `count` members of the struct, map or union type `name`, without the members' names."""
    if not name:
        return [""] * count
    members = _split(name[name.index(_OPEN) + 1 : name.rindex(_CLOSE)], ",")
    return [_without_name(member) if named else member for member in members]


def _without_name(member: str) -> str:
    return " ".join(_split(member, " ")[1:])


def _split(text: str, separator: str) -> list[str]:
    """The pieces of `text` between separators that stand outside of quotes and parentheses."""
    pieces, depth, quote, start = [], 0, "", 0
    for index, character in enumerate(text):
        if quote:
            # A doubled quote closes and opens again, which comes to the same.
            quote = "" if character == quote else quote
        elif character in _QUOTES:
            quote = character
        elif character in (_OPEN, _CLOSE):
            depth += 1 if character == _OPEN else -1
        elif character == separator and depth == 0:
            pieces.append(text[start:index].strip())
            start = index + 1
    return [*pieces, text[start:].strip()]
