"""Why an envelope failed, in words that hold none of its values. What Arrow or DuckDB say may quote a record."""

import re

from duckmesh.kernel.errors import DuckMeshError

_LONGEST = 500
_GAP = "…"

# What such messages are made of. Every other word may come from a record and is left out.
_WORDS = frozenset(
    re.findall(
        r"\w+",
        """
        a all an and any are array as at batch be been before because body boundary buffer but by byte bytes cannot cast
        casting column columns compressed compression contain contains convert converted converting could corrupt data
        decode decoding decompress depth dictionary different do does element elements empty encoded encoding end
        envelope error every exceed exceeds expected fail failed failure field fields file find fit fixed footer for
        format found frame from got has have header hold holds in index input integer invalid ipc is it item its large
        lease least length less level line list location long lost magic malformed map may message metadata mismatch
        missing more most must names negative nested no not null number of offset offsets on one only or out outside
        overflow overflowed parse parsed positive precision ran range read reading record records rescaling required
        requires row rows same scalar scale schema should size stopped stream support supported than that the there took
        to too trailing truncate truncated truncation type types unable underflow unexpected unicode unknown unsupported
        use value values version was were while width with within without worker would wrong zstd
        """,
    )
)
_TYPE = re.compile(
    r"(u?int(8|16|32|64)|u?(tiny|small|big|huge)int|half_?float|float(16|32|64)?|double|decimal(128|256)?|bool(ean)?"
    r"|varchar|large_string|string|utf8|large_binary|binary|blob|uuid|json|date(32|64)?|time(32|64)?|timestamp|duration"
    r"|interval|struct|list|arrow)"
)


def reason_of(exc: BaseException) -> str:
    """What may be told of the error: our own say nothing of a record's values, of others the known words stay."""
    text = exc.message if isinstance(exc, DuckMeshError) else _without_values(str(exc))
    return text.replace("\0", "")[:_LONGEST]  # PostgreSQL stores no NUL


def _without_values(text: str) -> str:
    told: list[str] = []
    for word in text.split():
        bare = word.strip(".,:;()").lower()
        known = bare in _WORDS or _TYPE.fullmatch(bare) is not None
        if known or told[-1:] != [_GAP]:
            told.append(word if known else _GAP)
    return " ".join(told)
