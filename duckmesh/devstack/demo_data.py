"""The demo's input: every flight that left New York City in 2013, as tables, records and keys of the API."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from duckmesh.kernel.config import ROOT

DATA = ROOT / "data" / "nycflights13"
Row = Mapping[str, Any]  # what a Parquet row holds depends on its columns


@dataclass(frozen=True, kw_only=True)
class Source:
    """One table of the demo: its columns, and what makes two records of it the same."""

    name: str
    columns: Mapping[str, str]  # name to type; a trailing "!" means it is never null
    key: Callable[[Row], str]
    time: str | None = None  # the column that says when the event happened

    def definition(self) -> dict[str, Any]:
        """The body of `POST /v1/tables`."""
        columns = [
            {"name": name, "type": kind.rstrip("!"), "nullable": not kind.endswith("!")}
            for name, kind in self.columns.items()
        ]
        return {"table_name": self.name, "schema_json": {"columns": columns}}

    def read(self) -> pa.Table:
        """The bundled rows, in event order, their times as the API takes them."""
        table = pq.read_table(DATA / f"{self.name}.parquet")
        for index, field in enumerate(table.schema):
            if pa.types.is_timestamp(field.type):
                seconds = table.column(index).cast(pa.timestamp("s", "UTC"))
                table = table.set_column(index, field.name, pc.strftime(seconds, format="%Y-%m-%dT%H:%M:%SZ"))
        return table


def bodies(source: Source, table: pa.Table, size: int) -> Iterator[tuple[int, Callable[[], bytes]]]:
    """The rows of `table` as ingest requests of `size` records: how many, and what makes the JSON when it is wanted."""
    for start in range(0, table.num_rows, size):
        part = table.slice(start, size)
        yield part.num_rows, lambda part=part: _body(source, part)  # type: ignore[misc] # a lambda's default has no type


def _body(source: Source, part: pa.Table) -> bytes:
    records = []
    names = part.column_names  # asked for once: it costs more than a row
    columns = [column.to_pylist() for column in part.columns]
    for values in zip(*columns, strict=True):
        row = dict(zip(names, values, strict=True))
        record = {"idempotency_key": source.key(row), "payload": row}
        if source.time is not None:
            record["event_time"] = row[source.time]
        records.append(record)
    return msgspec.json.encode({"records": records})


def _flight_key(row: Row) -> str:
    # A flight number may leave another airport, or leave twice a day; with both it is unique over the whole year.
    day = f"{row['year']}{row['month']:02}{row['day']:02}"
    return f"{row['carrier']}{row['flight']}-{day}-{row['origin']}-{row['sched_dep_time']:04}"


FLIGHTS = Source(
    name="flights",
    columns={
        "year": "int32!",
        "month": "int32!",
        "day": "int32!",
        "dep_time": "int32",
        "sched_dep_time": "int32!",
        "dep_delay": "int32",
        "arr_time": "int32",
        "sched_arr_time": "int32!",
        "arr_delay": "int32",
        "carrier": "string!",
        "flight": "int32!",
        "tailnum": "string",
        "origin": "string!",
        "dest": "string!",
        "air_time": "int32",
        "distance": "int64!",
        "hour": "int32!",
        "minute": "int32!",
        "time_hour": "timestamp!",
    },
    key=_flight_key,
    time="time_hour",
)
SMALL = (
    Source(
        name="airlines",
        columns={"carrier": "string!", "name": "string!"},
        key=lambda row: str(row["carrier"]),
    ),
    Source(
        name="airports",
        columns={
            "faa": "string!",
            "name": "string!",
            "lat": "float64",
            "lon": "float64",
            "alt": "int32",
            "tz": "int32",
            "dst": "string",
            "tzone": "string",
        },
        key=lambda row: str(row["faa"]),
    ),
    Source(
        name="planes",
        columns={
            "tailnum": "string!",
            "year": "int32",
            "type": "string",
            "manufacturer": "string",
            "model": "string",
            "engines": "int32",
            "seats": "int32",
            "speed": "int32",
            "engine": "string",
        },
        key=lambda row: str(row["tailnum"]),
    ),
    Source(
        name="weather",
        columns={
            "origin": "string!",
            "year": "int32",
            "month": "int32",
            "day": "int32",
            "hour": "int32",
            "temp": "float64",
            "dewp": "float64",
            "humid": "float64",
            "wind_dir": "int32",
            "wind_speed": "float64",
            "wind_gust": "float64",
            "precip": "float64",
            "pressure": "float64",
            "visib": "float64",
            "time_hour": "timestamp!",
        },
        key=lambda row: f"{row['origin']}-{row['time_hour']}",
        time="time_hour",
    ),
)
SOURCES = (*SMALL, FLIGHTS)
