"""One frozen, validated configuration, built once from `DUCKMESH_*` and, below it, from `stack.env` in the home.

`make up` writes `stack.env` (the addresses of the embedded servers), so that `manage.py` finds the running stack.
A name that is unknown or a value that is wrong raises `ConfigError` with a sentence that says what would be accepted.
"""

import os
import re
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from duckmesh.kernel.spans import ladder, span

PREFIX = "DUCKMESH_"
QUERY_SLACK = timedelta(minutes=1)
"""What a query may take beyond its timeout: until its files are known, and until it has really stopped."""

ROOT = Path(__file__).resolve().parents[2]

_BYTES = {"": 1, "B": 1, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


class ConfigError(Exception):
    """The environment cannot be used as it is; the message names the variable and what it accepts."""


def _duration(value: object) -> object:
    if not isinstance(value, str):
        return value
    return span(value)


def _size(value: object) -> object:
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"(\d+)\s*([A-Za-z]*)", value.strip())
    if not match or match[2].upper() not in _BYTES:
        raise ValueError("needs a number of bytes such as 1048576, 64MiB or 2GiB")
    return int(match[1]) * _BYTES[match[2].upper()]


def _is_ladder(text: str) -> str:
    ladder(text)
    return text


Duration = Annotated[timedelta, BeforeValidator(_duration)]
Ladder = Annotated[str, AfterValidator(_is_ladder)]
Size = Annotated[int, BeforeValidator(_size), Field(ge=1)]
SizeOrNone = Annotated[int, BeforeValidator(_size), Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Port = Annotated[int, Field(ge=1, le=65535)]


def _url(*schemes: str) -> BeforeValidator:
    def check(value: object) -> object:
        if isinstance(value, str) and urlsplit(value).scheme not in schemes:
            raise ValueError("needs an address that begins with " + " or ".join(f"{s}://" for s in schemes))
        return value

    return BeforeValidator(check)


class Config(BaseModel):
    """Every setting of DuckMesh. The description of each field is its line in docs/settings.md."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    home: Path = Field(
        ROOT / ".duckmesh", description="Directory of all state of the embedded stack, the caches and the logs."
    )
    port: Port = Field(8080, description="Port of the API on 127.0.0.1 (`make up`, `make demo`).")
    host: str = Field(
        "127.0.0.1",
        description="Address that the API and Flower are bound to. Other than the loopback needs `python -m"
        " duckmesh.serve`, which refuses what must not be seen from outside.",
    )
    plain_http: bool = Field(
        False,
        description="Serve without `DUCKMESH_HTTPS` beyond the loopback interface, where whoever sees the packets sees"
        " keys and data: for a network that is this service's alone, a container's for example.",
    )
    secret_key: str = Field(
        "", description="Key of the API keys' hashes and of the admin's sessions. `make up` makes one and keeps it."
    )
    allowed_hosts: str = Field(
        "127.0.0.1,localhost,[::1]", description="Host names the API answers to, separated by commas."
    )
    https: bool = Field(
        False,
        description="Callers speak TLS to the API or to a proxy before it, which sets `X-Forwarded-Proto` itself. The"
        " admin's cookies are then `Secure`, and browsers are told to stay with HTTPS.",
    )
    debug: bool = Field(False, description="Django's debug mode. Never outside a developer's machine.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="Least severe log line that is written."
    )
    log_json: bool = Field(True, description="Log lines as JSON objects; otherwise for reading on a terminal.")
    failpoints: str = Field("", description="Faults for tests, `name=action,…`; see duckmesh/kernel/failpoints.py.")

    # Servers
    database_url: Annotated[str, _url("postgresql", "postgres")] = Field(
        "postgresql://postgres@127.0.0.1:5432/duckmesh",
        description="PostgreSQL. Set in the environment, `make up` uses it instead of the embedded server.",
    )
    owner_database_url: Annotated[str, _url("postgresql", "postgres")] | None = Field(
        None,
        description="The same database, as the owner of its tables: for `manage.py migrate`, `backup`, `restore`,"
        " `restore_drill` and `catalog`, and the worker of the queue `drill`. Default: `DUCKMESH_DATABASE_URL`.",
    )
    redis_url: Annotated[str, _url("redis", "rediss")] = Field(
        "redis://127.0.0.1:6379/0", description="Redis or Valkey, the broker. Set, it replaces the embedded server."
    )
    object_store_url: Annotated[str, _url("file", "s3")] | None = Field(
        None,
        description="Where data files live: `file:///path` or `s3://bucket/prefix`. Default: `objects` in the home.",
    )
    s3_endpoint: str | None = Field(None, description="Host and port of the S3 service, such as `127.0.0.1:9000`.")
    s3_region: str = Field("us-east-1", description="Region of the bucket.")
    s3_access_key: str | None = Field(None, description="Access key of the S3 service.")
    s3_secret_key: str | None = Field(None, description="Secret key of the S3 service.")
    s3_secure: bool = Field(True, description="Speak TLS to the S3 service.")
    s3_autocreate_bucket: bool = Field(False, description="Create the bucket if it does not exist.")
    flower_port: Port = Field(5555, description="Port of Flower on 127.0.0.1 (embedded stack).")
    runner_socket: Path | None = Field(
        None,
        description="Unix socket of the process that forks the sealed query runners. Default: chosen from the home.",
    )
    prometheus_multiproc_dir: Path | None = Field(
        None,
        description="Directory where the processes of one service share their metrics. Default: `metrics` in the home.",
    )

    # Ingest
    idempotency_window: Duration = Field(
        timedelta(days=7), description="How long a record's or a request's key is remembered."
    )
    max_body_bytes: Size = Field(64 * 2**20, description="Largest request body, after decompression; beyond it 413.")
    max_json_body_bytes: Size = Field(
        64 * 2**20, description="Largest JSON request, which is held in memory whole; beyond it 413."
    )
    max_line_bytes: Size = Field(
        16 * 2**20, description="Longest line of NDJSON and longest record of CSV; beyond it 400."
    )
    max_records_per_request: Count = Field(100_000, description="Most records in one JSON request.")
    max_columns: Count = Field(
        1_000, le=1_000, description="Most columns that the writes to a table without `schema_json` give it."
    )
    max_keyed_records_per_request: Count = Field(
        250_000,
        description="Most records with an idempotency key of their own in one request of any format; beyond it 413.",
    )
    spool_memory_bytes: Size = Field(
        8 * 2**20,
        description="Bytes of one body, and of what it is decoded to, held in memory; the rest goes to `scratch`.",
    )
    stage_bytes: Size = Field(
        2**20,
        description="Decoded and compressed bytes of one request beyond which they go to the object store, and not"
        " through PostgreSQL.",
    )
    max_pending_records: int = Field(
        5_000_000,
        ge=0,
        description="Most accepted records of a tenant that are not yet visible; beyond it 429. Default of tenants"
        " without a limit of their own; 0: none.",
    )
    max_records_per_second: int = Field(
        0, ge=0, description="Records a second that a tenant may write; beyond it 429. Default of tenants; 0: no rate."
    )
    max_bytes_per_second: SizeOrNone = Field(
        0,
        description="Bytes a second that a tenant may write, decoded and compressed; beyond it 429. Default of"
        " tenants; 0: no rate.",
    )
    rate_burst: Duration = Field(
        timedelta(seconds=2), description="How much of its rate a tenant that was quiet may use at once."
    )
    max_stored_bytes: SizeOrNone = Field(
        0, description="Bytes of data files a tenant may have; beyond it 429. Default of tenants; 0: no quota."
    )
    max_stored_files: int = Field(
        0, ge=0, description="Data files a tenant may have; beyond it 429. Default of tenants; 0: no quota."
    )
    min_free_disk_bytes: SizeOrNone = Field(
        512 * 2**20,
        description="Free disk, in `scratch` and in a local object store, below which every write is answered 503;"
        " 0: not looked at.",
    )
    max_bus_bytes: SizeOrNone = Field(
        8 * 2**30,
        description="Accepted bytes of all tenants that wait in PostgreSQL to become visible; beyond it every write is"
        " answered 503. 0: no bound.",
    )
    max_database_bytes: SizeOrNone = Field(
        0, description="Size of PostgreSQL's database on disk beyond which every write is answered 503; 0: no bound."
    )
    max_visibility_timeout: Duration = Field(timedelta(minutes=5), description="Longest wait a request may ask for.")
    max_waiters: Count = Field(
        48, description="Most requests that wait for visibility in one API process; beyond it 503."
    )
    flush_interval: Duration = Field(
        timedelta(milliseconds=500), description="Age at which pending records are written when nobody waits."
    )
    flush_bytes: Size = Field(
        32 * 2**20, description="Pending bytes of a tenant that are written at once, whatever their age."
    )
    claim_max_bytes: Size = Field(
        32 * 2**20,
        description="Most pending bytes that one claim takes; a worker's memory grows by four times as much.",
    )
    claim_max_envelopes: Count = Field(5_000, description="Most envelopes (requests) that one claim takes.")
    slice_bytes: Size = Field(
        64 * 2**20,
        description="Arrow bytes that the materialiser holds of a claim's table; more become several data files.",
    )
    max_partitions_per_claim: Count = Field(
        64,
        description="Most partitions of a table that get a data file of their own out of one claim; the rows of the"
        " smallest share one.",
    )
    lease: Duration = Field(
        timedelta(seconds=60), description="How long a claim is held before another worker may take it over."
    )
    max_attempts: Count = Field(
        5, description="How often an envelope that fails alone is tried before it is set aside as failed."
    )
    retry_pause: Duration = Field(
        timedelta(milliseconds=200),
        description="Pause before what failed alone is tried again; it doubles with each attempt, up to 30 s.",
    )
    attempt_limit: Duration = Field(
        timedelta(minutes=15), description="Longest time between writing an object and publishing it."
    )
    orphan_grace: Duration = Field(
        timedelta(hours=24), description="Age an object without a row must reach before it may be deleted."
    )

    # Maintenance
    run_lease: Duration = Field(
        timedelta(seconds=60), description="How long a maintenance run is held before another worker may take it over."
    )
    max_queued_runs: Count = Field(
        100, description="Most maintenance runs of one kind that a tenant may have asked for and that wait; then 429."
    )
    run_keep: Duration = Field(
        timedelta(days=30),
        description="How long the history of maintenance runs is kept; of those that succeeded by themselves, a day.",
    )
    retention_keep_all_for: Duration = Field(
        timedelta(hours=1), description="For how long every snapshot is kept. Default of policies without their own."
    )
    retention_ladder: Ladder = Field(
        "1m:1d,1d:30d",
        description="Which older snapshots are kept: the last of each minute for a day, the last of each day for 30"
        " days. Default of policies without their own.",
    )
    retention_keep_last: Count = Field(
        1, description="How many of the newest snapshots are kept, however old. Default of policies without their own."
    )
    gc_safety_age: Duration = Field(
        timedelta(minutes=30),
        description="How long no snapshot must have named a file before it is deleted. More than a minute longer than"
        " the longest query, and longer than an attempt to write.",
    )
    orphan_sweep_every: Duration = Field(
        timedelta(hours=1), description="How often runs of retention list the object store to find orphans."
    )
    integrity_bytes_per_second: SizeOrNone = Field(
        128 * 2**20, description="Bytes of data files a second that a deep integrity run reads; 0: as fast as it can."
    )

    # Backup
    backup_key: str = Field(
        "",
        description="Key of age that backups are encrypted with: `AGE-SECRET-KEY-1…` to write and read them, or the"
        " `age1…` that belongs to it to write them only. Without it they are not encrypted.",
    )
    postgres_programs: Path | None = Field(
        None,
        description="Directory of pg_dump and pg_restore, as new as the server. Default: the embedded ones, then PATH.",
    )

    # Query
    max_query_timeout: Duration = Field(timedelta(seconds=300), description="Longest `timeout_ms` a query may ask for.")
    query_memory_bytes: Size = Field(512 * 2**20, description="DuckDB's memory limit in one runner.")
    query_threads: Count = Field(2, description="DuckDB's threads in one runner.")
    query_result_bytes: Size = Field(64 * 2**20, description="Most bytes of one answer in JSON.")
    query_stream_bytes: Size = Field(
        8 * 2**30, description="Most bytes of one answer in a form that is streamed: Arrow, Parquet, CSV, NDJSON."
    )
    query_cache_bytes: Size = Field(
        20 * 2**30,
        description="Most bytes of a remote store's data files that a machine keeps in `cache` in the home.",
    )
    query_spill_bytes: SizeOrNone = Field(
        2 * 2**30,
        description="Most bytes a query that needs more than its memory may spill to `spill` in the home, and at most"
        " a sixteenth of what is free there; 0 turns spilling off.",
    )
    query_audit_keep: Duration = Field(timedelta(days=30), description="How long the history of queries is kept.")
    query_audit_text: bool = Field(
        False, description="Keep the statements in the history of queries, literals included; else only their hashes."
    )
    max_sql_bytes: Size = Field(64 * 2**10, description="Longest statement.")
    runner_spares: Count = Field(2, description="Warm runners that wait for a tenant in each API process.")
    runner_limit: Count = Field(8, description="Most runners of one API process.")
    runner_concurrency: int = Field(
        0,
        ge=0,
        description="Most statements that one API process runs at once; 0: one for each processor, but 4 at least, and"
        " one more.",
    )
    runner_tenant_concurrency: int = Field(
        0,
        ge=0,
        description="Most statements of one tenant that one API process runs at once; 0: half of all. While it is"
        " below the number of all, the last free place is for a tenant that runs nothing.",
    )
    runner_queue: Count = Field(48, description="Most statements that wait for a runner in one API process; then 503.")
    runner_tenant_queue: Count = Field(
        32, description="Most statements of one tenant that wait for a runner in one API process; beyond it 429."
    )
    runner_max_queries: Count = Field(500, description="Queries after which a runner is replaced.")
    runner_max_age: Duration = Field(timedelta(minutes=10), description="Age at which a runner is replaced.")
    allow_unsealed_sql: bool = Field(
        False,
        description="Run tenants' SQL although this system cannot seal the runner. For one's own machine only.",
    )

    # Compaction
    compaction_min_input_files: int = Field(
        32,
        ge=2,
        description="Files of one tier that are merged together. A row is rewritten as often as its table's number of"
        " files has digits in this base.",
    )
    compaction_target_file_bytes: Size = Field(
        128 * 2**20, ge=2**16, description="Size of data files to aim at; what is half as large is left alone."
    )
    compaction_max_input_bytes: Size = Field(
        512 * 2**20, description="Most bytes of data files that compaction folds or gathers in one slice."
    )
    compaction_max_input_files: Count = Field(
        1_000, ge=2, description="Most data files that compaction makes one in one slice."
    )
    compaction_max_fresh_files: int = Field(
        20, ge=2, description="Files of operations of one tier of a keyed table that are gathered into one."
    )
    compaction_min_fold_files: Count = Field(
        8, description="Files of operations of a keyed table that are folded together."
    )
    compaction_dead_share: float = Field(
        0.02, ge=0, le=1, description="Share of the folded rows that operations must outnumber to be folded."
    )
    compaction_memory_bytes: Size = Field(
        512 * 2**20,
        ge=128 * 2**20,
        description="DuckDB's memory limit in one compaction; the rest spills to `scratch`.",
    )
    compaction_spill_bytes: Size = Field(
        64 * 2**30,
        description="Most bytes that one compaction spills; and no more than is free but for"
        " `DUCKMESH_MIN_FREE_DISK_BYTES`.",
    )
    compaction_threads: Count = Field(2, description="DuckDB's threads in one compaction.")

    # Seeing
    otlp_endpoint: Annotated[str, _url("http", "https")] | None = Field(
        None,
        description="Collector of OpenTelemetry that gets spans over HTTP, such as `http://127.0.0.1:4318`. Needs the"
        " packages of requirements/otel.txt. Default: no spans.",
    )
    metrics_tenant_labels: bool = Field(
        False, description="Label the gauges of /v1/metrics with tenant names; the page needs no key."
    )
    worker_metrics_port: int = Field(
        0, ge=0, le=65535, description="Port where a worker or beat shows its metrics; 0: none."
    )
    worker_metrics_host: str = Field(
        "127.0.0.1", description="Address that this port is bound to. The page is open to whoever reaches it."
    )

    # Processes of the embedded stack
    stop_grace: Duration = Field(
        timedelta(seconds=10),
        ge=timedelta(seconds=4),
        le=timedelta(minutes=20),
        description="How long requests and tasks may go on after their program was told to stop. Who would wait longer"
        " for visibility is answered before, and maintenance runs are given back.",
    )
    api_processes: Count = Field(2, description="Processes of the API.")
    api_threads: Count = Field(64, description="Threads of each API process.")
    materialize_workers: Count = Field(2, description="Processes of the worker that publishes snapshots.")

    maintenance_workers: Count = Field(2, description="Processes of the worker that runs maintenance.")

    @model_validator(mode="after")
    def _agree(self) -> "Config":
        if self.orphan_grace <= self.attempt_limit:
            raise ValueError("DUCKMESH_ORPHAN_GRACE must exceed DUCKMESH_ATTEMPT_LIMIT")
        if self.gc_safety_age <= self.max_query_timeout + QUERY_SLACK:
            raise ValueError(
                "DUCKMESH_GC_SAFETY_AGE must exceed DUCKMESH_MAX_QUERY_TIMEOUT by more than a minute, or the longest"
                " query loses its files"
            )
        if self.gc_safety_age <= self.attempt_limit:
            raise ValueError(
                "DUCKMESH_GC_SAFETY_AGE must exceed DUCKMESH_ATTEMPT_LIMIT, or a rewrite loses the files it reads"
            )
        if self.attempt_limit <= self.lease:
            raise ValueError("DUCKMESH_ATTEMPT_LIMIT must exceed DUCKMESH_LEASE")
        if self.compaction_max_input_bytes < self.compaction_target_file_bytes:
            raise ValueError(
                "DUCKMESH_COMPACTION_MAX_INPUT_BYTES must not be below DUCKMESH_COMPACTION_TARGET_FILE_BYTES"
            )
        if self.max_waiters >= self.api_threads:
            raise ValueError(
                "DUCKMESH_MAX_WAITERS must be below DUCKMESH_API_THREADS, or waiting requests starve the others"
            )
        if self.runner_queue >= self.api_threads:
            raise ValueError(
                "DUCKMESH_RUNNER_QUEUE must be below DUCKMESH_API_THREADS, or waiting queries starve everything else"
            )
        return self

    @property
    def store_url(self) -> str:
        """The object store's address, the local default filled in."""
        return self.object_store_url or (self.home / "objects").absolute().as_uri()

    @property
    def stop_patience(self) -> timedelta:
        """How long after the order to stop what would take longer is called off: the rest is for its ending."""
        return self.stop_grace * 0.6


def _described(error: Mapping[str, Any]) -> str:
    message = str(error["msg"]).removeprefix("Value error, ")
    if not error["loc"]:
        return message
    name = PREFIX + str(error["loc"][0]).upper()
    secret = "SECRET" in name or name.endswith("BACKUP_KEY")
    return f"{name}: {message}" if secret else f"{name}: {message} (it is {error.get('input')!r})"


def load_config(environ: Mapping[str, str] | None = None) -> Config:
    """The configuration that `environ` (default: this process's) and the home's `stack.env` describe.

    Raises `ConfigError`, naming each variable that is unknown or wrong.
    """
    given = dict(os.environ if environ is None else environ)
    home = Path(given.get(PREFIX + "HOME") or Config.model_fields["home"].default).expanduser().absolute()
    kept = read_env_file(home / "stack.env")
    if given.get(PREFIX + "DATABASE_URL"):
        kept.pop(PREFIX + "OWNER_DATABASE_URL", None)  # it owns the tables of another database
    merged = {**kept, **given}
    known = {PREFIX + name.upper(): name for name in Config.model_fields}
    unknown = sorted(name for name in merged if name.startswith(PREFIX) and name not in known)
    if unknown:
        raise ConfigError(f"Unknown setting {', '.join(unknown)}; docs/settings.md lists the names there are.")
    values: dict[str, Any] = {field: merged[name] for name, field in known.items() if merged.get(name)}
    try:
        return Config(**{**values, "home": home})
    except ValidationError as exc:
        raise ConfigError("; ".join(_described(error) for error in exc.errors())) from None


def read_env_file(path: Path) -> dict[str, str]:
    """The `NAME=value` lines of `path`; empty if there is no such file."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except PermissionError as exc:
        raise ConfigError(f"{path} cannot be read by this user: {exc.strerror}") from None
    lines = (line for line in text.splitlines() if line and not line.startswith("#"))
    return {name: value for name, _, value in (line.partition("=") for line in lines)}
