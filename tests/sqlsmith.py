"""Statements made up from a grammar; the same chance makes the same statement.

They have one right answer: nothing in them depends on time, chance or the order in which rows come. Numbers that are
summed are multiples of a quarter, so that sums do not depend on that order either.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

INT, NUM, STR, BOOL, TIME, LIST, JSON = "int", "num", "str", "bool", "time", "list", "json"
TABLES = {
    "trips": {
        "id": INT,
        "carrier": STR,
        "origin": STR,
        "fare": NUM,
        "distance": INT,
        "note": STR,
        "ts": TIME,
        "tags": LIST,
        "payload": JSON,
    },
    "carriers": {"code": STR, "name": STR, "country": STR},
    "prices": {"carrier": STR, "since": TIME, "price": NUM},
    "edges": {"src": INT, "dst": INT},
}
CONSTANTS = {
    INT: ["0", "1", "-3", "7", "100", "NULL::BIGINT", "9223372036854775807"],
    NUM: ["0.0::DOUBLE", "2.5::DOUBLE", "(-1.25::DOUBLE)", "'nan'::DOUBLE", "'inf'::DOUBLE", "NULL::DOUBLE"],
    STR: ["''", "'UA'", "'row 1'", "'é😀'", "'%a_'", "'it''s'", "NULL::VARCHAR", "chr(0)"],
    BOOL: ["true", "false", "NULL::BOOLEAN"],
    TIME: ["TIMESTAMP '2024-01-02 03:04:05'", "TIMESTAMP 'infinity'", "NULL::TIMESTAMP", "make_timestamp(0)"],
    LIST: ["['a', 'b']", "([]::VARCHAR[])", "(NULL::VARCHAR[])", "['x', NULL]"],
    JSON: ["'{\"a\":1}'::JSON", "'[1,2]'::JSON", "NULL::JSON"],
}
# `{int}` stands for an expression of that type, `{ordered int}` for one and an order by the same one.
FORMS = {
    INT: [
        *("{int} + {int}", "{int} - {int}", "{int} * {int}", "{int} // {int}", "{int} % {int}", "abs({int})"),
        *("length({str})", "year({time})", "len({list})", "date_part('hour', {time})", "coalesce({int}, {int})"),
        *("CASE WHEN {bool} THEN {int} ELSE {int} END", "({int} & {int})", "strpos({str}, {str})", "ascii({str})"),
        *(
            "json_array_length({json})",
            "bit_count({int})",
            "date_diff('day', {time}, {time})",
            "greatest({int}, {int})",
        ),
        *("nullif({int}, {int})", "try_cast({str} AS BIGINT)", "list_position({list}, {str})", "xor({int}, {int})"),
        *("(SELECT max(src) FROM edges WHERE dst > {int})", "length({int}::UTINYINT::BIT)"),
    ],
    NUM: [
        *(
            "{num} + {num}",
            "{num} * 2",
            "{num} / {num}",
            "-{num}",
            "round({num}, 1)",
            "floor({num})",
            "sqrt(abs({num}))",
        ),
        *("{int}::DOUBLE", "coalesce({num}, {num})", "CASE WHEN {bool} THEN {num} END", "least({num}, {num})"),
        "try(ln({num}))",
    ],
    STR: [
        *("{str} || {str}", "upper({str})", "{str}[1:2]", "replace({str}, {str}, {str})", "{int}::VARCHAR"),
        *("split_part({str}, ' ', 1)", "regexp_replace({str}, '[0-9]', '#', 'g')", "trim({str})", "reverse({str})"),
        *(
            "coalesce({str}, {str})",
            "{list}[{int}]",
            "{json}->>'a'",
            "strftime({time}, '%Y-%m')",
            "concat({str}, {int})",
        ),
        *("lpad({str}, 8, '*')", "md5({str})", "array_to_string({list}, ',')", "CASE WHEN {bool} THEN {str} END"),
        *("typeof({num})", "hex({str})", "json_extract_string({json}, '$.b.c')", "left({str}, {int} % 5)"),
    ],
    BOOL: [
        *(
            "{int} < {int}",
            "{int} = {int}",
            "{num} >= {num}",
            "{str} LIKE {str}",
            "{str} IN ({str}, {str})",
            "NOT {bool}",
        ),
        *("{bool} AND {bool}", "{bool} OR {bool}", "{str} IS NULL", "{int} BETWEEN {int} AND {int}", "{time} > {time}"),
        *(
            "{str} ILIKE '%a%'",
            "list_contains({list}, {str})",
            "{int} IS DISTINCT FROM {int}",
            "starts_with({str}, {str})",
        ),
        *(
            "EXISTS (FROM edges WHERE src = {int})",
            "{int} IN (SELECT dst FROM edges)",
            "regexp_matches({str}, '[a-m]')",
        ),
        *("{str} NOT IN (SELECT code FROM carriers)", "isnan({num})", "{str} = {str}", "json_exists({json}, '$.a')"),
    ],
    TIME: [
        *(
            "date_trunc('day', {time})",
            "{time} + INTERVAL 1 DAY",
            "coalesce({time}, {time})",
            "CASE WHEN {bool} THEN {time} END",
        ),
        *("time_bucket(INTERVAL '3 hours', {time})", "greatest({time}, {time})"),
    ],
    LIST: [
        *("list_transform({list}, lambda x: upper(x))", "list_filter({list}, lambda x: x > 'a')", "list_sort({list})"),
        *("[x || '!' FOR x IN {list} IF x <> 'b']", "{list}[1:1]", "string_split({str}, ' ')", "list_reverse({list})"),
        *(
            "list_concat({list}, {list})",
            "[{str}, {str}]",
            "coalesce({list}, {list})",
            "regexp_extract_all({str}, '[0-9]')",
        ),
    ],
    JSON: [
        "{json}->'b'",
        "json_object('k', {int})",
        "to_json({list})",
        "coalesce({json}, {json})",
        "json_array({str})",
    ],
}
AGGREGATES = {
    INT: [
        *("count(*)", "count({str})", "count(DISTINCT {str})", "max({int})", "min({int})", "bit_xor({int})"),
        *("count(*) FILTER (WHERE {bool})", "approx_count_distinct({str})", "arg_max(1, {int})", "count_if({bool})"),
    ],
    NUM: ["max({num})", "min({num})", "median({int})::DOUBLE", "avg({int} % 100)", "quantile_disc({num}, 0.5)"],
    STR: ["max({str})", "min({str})", "array_to_string(list({ordered str}), ',')", "histogram({str})::VARCHAR"],
    BOOL: ["bool_and({bool})", "bool_or({bool})"],
    TIME: ["max({time})", "min({time})"],
    LIST: ["list({ordered str})", "array_agg(DISTINCT {ordered str})"],
    JSON: ["to_json(list({ordered int}))"],
}
# Over an order of rows that ties leave open, these are the same for all of a tie.
WINDOWS = {
    INT: ["rank()", "dense_rank()", "count(*)", "sum({int} % 100)", "max({int})"],
    NUM: ["max({num})", "percent_rank()", "cume_dist()"],
    STR: ["max({str})", "min({str})"],
}

Columns = dict[str, str]  # what stands for a column, and its type


@dataclass(frozen=True, kw_only=True)
class Source:
    """What follows FROM, and the columns that can be read of it."""

    sql: str
    columns: Columns


class Smith:
    """Makes statements out of chance."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._names = 0

    def statement(self) -> str:
        """A statement whose rows have no order, or whose order is that of all of their columns."""
        kinds: list[Callable[[], str]] = [
            self._select,
            self._select,
            self._grouped,
            self._windowed,
            self._set,
            self._with,
        ]
        kinds += [self._pivot, self._unnested, self._asof]
        return self._pick(kinds)()

    def _pick(self, choices: Sequence[Callable[[], str]]) -> Callable[[], str]:
        return self._chance.choice(choices)

    def _name(self) -> str:
        self._names += 1
        return f"n{self._names}"

    def _source(self, depth: int = 2) -> Source:
        roll = self._chance.random()
        if depth and roll < 0.2:
            inner, name = self._projection(self._source(depth - 1)), self._name()
            return Source(
                sql=f"({inner.sql}) AS {name}",
                columns={f"{name}.{column}": kind for column, kind in inner.columns.items()},
            )
        if depth and roll < 0.45:
            left, right = self._source(depth - 1), self._source(0)
            how = self._chance.choice(
                ["JOIN", "LEFT JOIN", "FULL JOIN", "RIGHT JOIN", "SEMI JOIN", "ANTI JOIN", "CROSS JOIN"]
            )
            both = left.columns | right.columns
            on = "" if how == "CROSS JOIN" else f" ON {self._expression(BOOL, both, 1)}"
            return Source(
                sql=f"{left.sql} {how} {right.sql}{on}", columns=left.columns if how[:4] in ("SEMI", "ANTI") else both
            )
        name = self._name()
        if roll > 0.93:
            return Source(sql=f"range({self._chance.randint(0, 9)}) AS {name}(i)", columns={f"{name}.i": INT})
        table = self._chance.choice(list(TABLES))
        return Source(
            sql=f"{table} AS {name}", columns={f"{name}.{column}": kind for column, kind in TABLES[table].items()}
        )

    def _expression(self, kind: str, columns: Columns, depth: int) -> str:
        fitting = [column for column, of in columns.items() if of == kind]
        if depth <= 0 or self._chance.random() < 0.25:
            if fitting and self._chance.random() < 0.8:
                return self._chance.choice(fitting)
            return self._chance.choice(CONSTANTS[kind])
        return f"({self._filled(self._chance.choice(FORMS[kind]), columns, depth)})"

    def _filled(self, form: str, columns: Columns, depth: int) -> str:
        for kind in CONSTANTS:
            if f"{{ordered {kind}}}" in form:
                item = self._expression(kind, columns, depth - 1)
                form = form.replace(f"{{ordered {kind}}}", f"{item} ORDER BY {item}")
            while f"{{{kind}}}" in form:
                form = form.replace(f"{{{kind}}}", self._expression(kind, columns, depth - 1), 1)
        return form

    def _projection(self, source: Source) -> Source:
        kinds = [
            self._chance.choice([INT, INT, NUM, STR, STR, BOOL, TIME, LIST, JSON])
            for _ in range(self._chance.randint(1, 4))
        ]
        named = {f"c{place}": kind for place, kind in enumerate(kinds)}
        items = ", ".join(f"{self._expression(kind, source.columns, 3)} AS {name}" for name, kind in named.items())
        distinct = "DISTINCT " if self._chance.random() < 0.15 else ""
        return Source(sql=f"SELECT {distinct}{items} FROM {source.sql}{self._where(source)}", columns=named)

    def _where(self, source: Source) -> str:
        return f" WHERE {self._expression(BOOL, source.columns, 3)}" if self._chance.random() < 0.6 else ""

    def _ending(self) -> str:
        roll = self._chance.random()
        if roll < 0.4:
            return ""
        order = " ORDER BY ALL" + self._chance.choice(["", " DESC", " NULLS FIRST", " DESC NULLS LAST"])
        return (
            order if roll < 0.7 else f"{order} LIMIT {self._chance.randint(0, 12)} OFFSET {self._chance.randint(0, 3)}"
        )

    def _select(self) -> str:
        return self._projection(self._source()).sql + self._ending()

    def _grouped(self) -> str:
        source = self._source()
        keys = [
            self._expression(self._chance.choice([STR, INT, BOOL]), source.columns, 2)
            for _ in range(self._chance.randint(1, 2))
        ]
        kinds = [self._chance.choice(list(AGGREGATES)) for _ in range(self._chance.randint(1, 3))]
        items = [self._filled(self._chance.choice(AGGREGATES[kind]), source.columns, 2) for kind in kinds]
        how = self._chance.choice(["ALL", "ALL", "ROLLUP", "CUBE"])
        by = "ALL" if how == "ALL" else f"{how} ({', '.join(keys)})"
        having = " HAVING count(*) > 1" if self._chance.random() < 0.3 else ""
        selected = ", ".join(f"{item} AS c{place}" for place, item in enumerate([*keys, *items]))
        return f"SELECT {selected} FROM {source.sql}{self._where(source)} GROUP BY {by}{having}{self._ending()}"

    def _windowed(self) -> str:
        source = self._source(1)
        kind = self._chance.choice(list(WINDOWS))
        function = self._filled(self._chance.choice(WINDOWS[kind]), source.columns, 2)
        partition = f"PARTITION BY {self._expression(STR, source.columns, 1)} " if self._chance.random() < 0.6 else ""
        over = f"{function} OVER ({partition}ORDER BY {self._expression(INT, source.columns, 1)})"
        qualify = " QUALIFY c1 IS NOT NULL" if self._chance.random() < 0.3 else ""
        first = self._expression(INT, source.columns, 1)
        return f"SELECT {first} AS c0, {over} AS c1 FROM {source.sql}{self._where(source)}{qualify}{self._ending()}"

    def _set(self) -> str:
        kinds = [self._chance.choice([INT, STR, BOOL, TIME]) for _ in range(self._chance.randint(1, 2))]
        how = self._chance.choice(["UNION", "UNION ALL", "EXCEPT", "INTERSECT", "EXCEPT ALL", "UNION ALL BY NAME"])
        sides = []
        for _ in range(2):
            source = self._source(1)
            items = ", ".join(f"{self._expression(kind, source.columns, 2)} AS c{n}" for n, kind in enumerate(kinds))
            sides.append(f"SELECT {items} FROM {source.sql}{self._where(source)}")
        return f" {how} ".join(sides) + self._ending()

    def _with(self) -> str:
        name, inner = self._name(), self._projection(self._source(1))
        outer = Source(sql=f"{name} AS w", columns={f"w.{column}": kind for column, kind in inner.columns.items()})
        if self._chance.random() < 0.3:
            steps = self._chance.randint(1, 30)
            counted = f"{name}(i, s) AS (SELECT 1, 'a' UNION ALL SELECT i + 1, s || i FROM {name} WHERE i < {steps})"
            return f"WITH RECURSIVE {counted} SELECT max(i), max(length(s)), count(*) FROM {name}"
        again = self._projection(outer)
        return f"WITH {name} AS ({inner.sql}) {again.sql}{self._ending()}"

    def _pivot(self) -> str:
        using = self._chance.choice(["count(*)", "max(fare)", "min(note)", "sum(distance)"])
        rows = "SELECT carrier, origin, fare, note, distance FROM trips"
        return f"PIVOT ({rows}) ON origin IN ('EWR', 'JFK', 'nope') USING {using} GROUP BY carrier"

    def _unnested(self) -> str:
        columns = {f"t.{column}": kind for column, kind in TABLES["trips"].items()}
        made = self._expression(LIST, columns, 2)
        return f"SELECT t.id, u.x FROM trips AS t, unnest({made}) AS u(x){self._ending()}"

    def _asof(self) -> str:
        columns = {"t.id": INT, "t.note": STR, "p.price": NUM}
        how = self._chance.choice(["ASOF JOIN", "ASOF LEFT JOIN"])
        first = self._expression(self._chance.choice([INT, STR, NUM]), columns, 2)
        joined = f"trips AS t {how} prices AS p ON t.carrier = p.carrier AND t.ts >= p.since"
        return f"SELECT {first} AS c0, p.price AS c1 FROM {joined}{self._ending()}"


def mutated(chance: random.Random, sql: str, words: Sequence[str]) -> str:
    """`sql` with some of its words gone, doubled, moved, broken or replaced by others."""
    parts = sql.split(" ")
    for _ in range(chance.choice([1, 1, 1, 2, 3])):
        place, other = chance.randrange(len(parts)), chance.randrange(len(parts))
        match chance.randrange(7):
            case 0 if len(parts) > 1:
                del parts[place]
            case 1:
                parts.insert(place, parts[other % len(parts)])
            case 2:
                parts[place], parts[other] = parts[other], parts[place]
            case 3:
                parts.insert(place, chance.choice(words))
            case 4:
                parts[place] = chance.choice(words)
            case 5:
                cut = chance.randrange(len(parts[place]) + 1)
                parts[place] = (
                    parts[place][:cut] + chance.choice("'\"();$?\\\n\t-*/,.ſé\u00a0\u200b{}[]:") + parts[place][cut:]
                )
            case _:
                parts[place] = chance.choice(
                    [parts[place].swapcase(), f"({parts[place]})", f'"{parts[place]}"', "/**/"]
                )
    return " ".join(parts)
