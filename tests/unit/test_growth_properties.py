"""Whatever the values, their order and their requests: a growing column ends with one type, each row with its value."""

import json
from decimal import Decimal

from hypothesis import example, given, settings
from hypothesis import strategies as st

from catalog.schema import TableSchema
from ingest.decode.exact import decode_exact
from ingest.decode.fast import decode_fast
from ingest.decode.growth import grown
from ingest.decode.lattice import BOOL, FLOAT32, INT32, JSON, STRING, join
from ingest.decode.number_text import FLOAT, INTEGER, NUMBER, WIDE
from ingest.decode.plan import plan_of
from ingest.decode.reading import Document
from ingest.decode.refusals import Doubt
from tests.unit.growth_cases import EMPTY, GrowingTable, body

KINDS = [INT32, INTEGER, WIDE, FLOAT32, FLOAT, NUMBER, BOOL, STRING, JSON, ("timestamp", ""), ("list<int64>", "")]

EDGES = [2**53, 2**53 + 1, -(2**53) - 1, 2**60, 10**17, 2**63 - 1, 2**63 - 1024, -(2**63), 2**63, 2**64, 10**20, 0, 1]
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
NUMBERS = (
    st.sampled_from(EDGES).map(str)
    | st.integers(-(2**65), 2**65).map(str)
    | st.integers(-100, 100).map(str)
    | st.integers(-100, 100).map(lambda n: f"{n}.0")
    | st.sampled_from(EDGES).map(lambda n: f"{n}.0")
    | st.integers(1, 400).map(lambda n: f"-{n}e-2")
    | st.sampled_from(["-0.0", "0.0", "1e0", "1E2", "1e22", "1e300", "5e-324", "1e-400", "0.1234567890123456789"])
    | FLOATS.map(repr)
    | FLOATS.map(lambda x: f"{x:.16e}")
    | st.decimals(allow_nan=False, allow_infinity=False, places=20, min_value=-100, max_value=100).map(
        lambda d: f"{d:f}"
    )
)
OTHERS = st.sampled_from(["true", "false", "[]", "{}", '[1,{"b":2.0,"a":null}]', '"1"', '"\\u0000\\u001f"']) | st.text(
    st.characters(exclude_categories=["Cs"]), max_size=5
).map(json.dumps)
LITERALS = st.lists(NUMBERS, min_size=1, max_size=8) | st.lists(
    NUMBERS | OTHERS | st.just("null"), min_size=1, max_size=8
)


@st.composite
def ways(draw: st.DrawFn) -> tuple[list[str], list[list[int]]]:
    """Values, and requests that each bring some of them, all of them in all."""
    literals = draw(LITERALS)
    order = draw(st.permutations(range(len(literals))))
    requests: list[list[int]] = [[]]
    for position in order:
        if requests[-1] and draw(st.booleans()):
            requests.append([])
        requests[-1].append(position)
    return literals, requests


def outcome(literals: list[str], requests: list[list[int]]) -> tuple[dict[str, str], list[object]]:
    """The type of the column in the end, and the values in the order of the literals."""
    table = GrowingTable()
    for request in requests:
        table.write(*(f'{{"i":{position},"v":{literals[position]}}}' for position in request))
    types = {name: type_ for name, type_ in table.types.items() if name == "v"}
    if not types:
        return {}, []
    found = dict(zip(table.rows("i"), table.rows("v"), strict=True))
    return types, [found[position] for position in range(len(literals))]


@settings(max_examples=300)
@given(ways())
@example((["1", "9007199254740993", "0.5"], [[1], [0, 2]]))
@example((["1.0", "1", "9007199254740993"], [[0], [2], [1]]))
@example((["100000000000000000", "1e17", "9007199254740993", "0.5"], [[3], [1], [0], [2]]))
@example((['"\\u001f"', "-0.0", "1.5e300"], [[1], [2], [0]]))
def test_neither_order_nor_requests_change_what_a_column_becomes(case: tuple[list[str], list[list[int]]]) -> None:
    literals, requests = case
    at_once = outcome(literals, [list(range(len(literals)))])
    one_by_one = outcome(literals, [[position] for position in range(len(literals))])
    assert repr(outcome(literals, requests)) == repr(at_once) == repr(one_by_one)


@given(st.lists(NUMBERS, min_size=1, max_size=5))
def test_a_number_in_text_is_the_number_that_was_written(literals: list[str]) -> None:
    _, texts = outcome([*literals, "[]"], [list(range(len(literals) + 1))])
    for literal, text in zip(literals, texts, strict=False):
        assert isinstance(text, str)
        assert json.loads(text) is not None
        exact, written = Decimal(literal), Decimal(text)
        # A literal with a point or an exponent may say its float64 with more digits than the shortest text has.
        assert written == exact or (float(literal) == float(text) and not literal.lstrip("-").isdigit())


@settings(max_examples=300)
@given(st.lists(st.dictionaries(st.sampled_from("abcd"), NUMBERS | OTHERS | st.just("null")), min_size=1, max_size=6))
def test_the_fast_way_agrees_with_the_exact_way_about_a_growing_table(payloads: list[dict[str, str]]) -> None:
    texts = ["{" + ",".join(f'"{name}":{literal}' for name, literal in payload.items()) + "}" for payload in payloads]
    text = body(texts)
    for known in (texts, texts[:1], [*texts, '{"a":0.5}', '{"b":9007199254740993}']):
        table = GrowingTable()
        if any(literal != "null" for payload in payloads[:1] for literal in payload.values()):
            table.write(*known)
        plan = plan_of(table.shape)
        try:
            fast = decode_fast(text, plan, max_records=100, hash_all=True)
        except Doubt:
            continue
        parsed = [record["payload"] for record in Document(text).records() if isinstance(record, dict)]
        assert grown(table.shape, parsed, max_columns=1_000) is table.shape
        exact = decode_exact(text, plan, max_records=100)
        assert [array.to_pylist() for array in fast.arrays] == [array.to_pylist() for array in exact.arrays]
        assert list(fast.payloads) == list(exact.payloads)


@given(LITERALS, LITERALS)
def test_hashes_know_nothing_of_the_types(literals: list[str], others: list[str]) -> None:
    young, grown_up = GrowingTable(), GrowingTable()
    grown_up.write('{"v":1}', *(f'{{"v":{literal}}}' for literal in others))
    young.write('{"v":1}')
    for literal in literals:
        payload = f'{{"v":{literal}}}'
        one, other = young.write(payload, key="k"), grown_up.write(payload, key="k")
        assert one.payload_hashes == other.payload_hashes


def test_the_lattice_is_one() -> None:
    for a in KINDS:
        assert join(a, a) == a
        assert join(a, JSON) == JSON
        for b in KINDS:
            assert join(a, b) == join(b, a)
            assert join(a, join(a, b)) == join(a, b)
            for c in KINDS:
                assert join(a, join(b, c)) == join(join(a, b), c)


def test_an_empty_table_stays_empty() -> None:
    assert grown(EMPTY, [{}, {"a": None}, 3], max_columns=5) is EMPTY
    assert EMPTY.schema == TableSchema(version=1, columns=())
