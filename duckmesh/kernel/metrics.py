"""Every metric of DuckMesh, with its unit and labels of bounded values. docs/metrics.md is held against this list.

Gauges are not here: what a process had set would outlive it. `api.gauges` reads them at the scrape from where they are
true: the catalog, the broker, the disk.
"""

import os
from typing import Any

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram, multiprocess, values

from duckmesh.kernel.metric_slots import slot

_Shared: Any = values.MultiProcessValue  # the library has no types for it, nor for the collector below
if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
    values.ValueClass = _Shared(process_identifier=slot)

_MILLISECONDS = (1, 2, 5, 10, 20, 40, 70, 100, 200, 500, 1_000, 2_000, 3_000, 5_000, 10_000, 30_000, 60_000)
_COUNTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 5_000, 10_000)
_SECONDS = (0.01, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 900)
_LONG_SECONDS = (1, 5, 15, 30, 60, 120, 300, 600, 1_200, 3_600, 7_200)
_BYTES = tuple(4**n * 1024 for n in range(12))

http_responses = Counter(
    "duckmesh_http_responses_total", "Answers by route and class of status.", ["route", "status_class"]
)
scrape_failures = Counter(
    "duckmesh_scrape_failures_total", "Readings for a scrape that failed or did not come in time.", ["source"]
)

task_messages = Counter("duckmesh_task_messages_total", "Messages this service put into the queues, by task.", ["task"])
tasks = Counter("duckmesh_tasks_total", "Tasks that ended, by how.", ["task", "outcome"])
task_duration = Histogram(
    "duckmesh_task_duration_seconds", "Seconds from a task's beginning to its end.", ["task"], buckets=_SECONDS
)

ingest_requests = Counter("duckmesh_ingest_requests_total", "Ingest requests by outcome.", ["outcome"])
ingest_records = Counter("duckmesh_ingest_records_total", "Records accepted.")
ingest_duplicates = Counter("duckmesh_ingest_duplicates_total", "Records left out because their key was known.")
ingest_ack_latency = Histogram(
    "duckmesh_ingest_ack_latency_ms",
    "Milliseconds from the request's arrival to its durable acceptance.",
    buckets=_MILLISECONDS,
)
write_to_visible_latency = Histogram(
    "duckmesh_write_to_visible_latency_ms",
    "Milliseconds from acceptance to publication, per envelope.",
    buckets=_MILLISECONDS,
)
consistency_timeouts = Counter(
    "duckmesh_consistency_timeout_total", "Waits for visibility that ran out, by who waited.", ["waiter"]
)
consistency_satisfied = Counter(
    "duckmesh_consistency_satisfied_total", "Tokens that were seen to be visible in time, by who asked.", ["waiter"]
)
doorbell_errors = Counter(
    "duckmesh_doorbell_errors_total", "Wake-up messages that could not be sent; the sweep finds the work."
)

claim_batch_size = Histogram("duckmesh_claim_batch_size", "Envelopes in a claim.", buckets=_COUNTS)
claim_retries = Counter("duckmesh_claim_retries_total", "Claims given back or taken over, by reason.", ["reason"])
commit_batch_latency = Histogram(
    "duckmesh_commit_batch_latency_ms",
    "Milliseconds from a claim to the commit of its snapshot.",
    buckets=_MILLISECONDS,
)
snapshot_publish_failures = Counter(
    "duckmesh_snapshot_publish_failures_total", "Attempts to publish that failed, by reason.", ["reason"]
)
housekeeping_removed = Counter(
    "duckmesh_housekeeping_removed_total", "What housekeeping removed because nothing needs it, by kind.", ["kind"]
)
gc_snapshots_expired = Counter("duckmesh_gc_snapshots_expired_total", "Snapshots that retention dropped.")
gc_files_deleted = Counter("duckmesh_gc_files_deleted_total", "Data files deleted because no snapshot names them.")
gc_orphans_deleted = Counter("duckmesh_gc_orphans_deleted_total", "Objects deleted that no row names.")
gc_bytes_deleted = Counter("duckmesh_gc_bytes_deleted_total", "Bytes of deleted objects, by what they were.", ["what"])
gc_undeleted_objects = Counter(
    "duckmesh_gc_undeleted_objects_total", "Objects that the store did not delete; they are tried again."
)

query_requests = Counter("duckmesh_query_requests_total", "Queries by outcome.", ["outcome"])
query_latency = Histogram(
    "duckmesh_query_latency_ms", "Milliseconds from a query's arrival to its answer.", buckets=_MILLISECONDS
)
query_queue = Histogram(
    "duckmesh_query_queue_ms",
    "Milliseconds that a statement waited for a runner, each time it needed one.",
    buckets=_MILLISECONDS,
)
runners_ended = Counter("duckmesh_runners_ended_total", "Query runners that were used and ended, by why.", ["reason"])
query_scanned_files = Histogram("duckmesh_query_scanned_files", "Data files a query opened.", buckets=_COUNTS)
query_scanned_bytes = Histogram(
    "duckmesh_query_scanned_bytes", "Bytes of the data files a query opened.", buckets=_BYTES
)
query_cache_files = Counter(
    "duckmesh_query_cache_files_total", "Data files that queries asked the cache for.", ["outcome"]
)
query_cache_bytes = Counter(
    "duckmesh_query_cache_bytes_total", "Bytes of data files that queries asked the local cache for.", ["outcome"]
)
query_cache_damaged = Counter(
    "duckmesh_query_cache_damaged_total", "Entries of the local cache found damaged and fetched anew.", ["reason"]
)

compaction_runs = Counter("duckmesh_compaction_runs_total", "Compaction runs that ended, by outcome.", ["outcome"])
gc_runs = Counter(
    "duckmesh_gc_runs_total", "Runs of retention and garbage collection that ended, by outcome.", ["outcome"]
)
integrity_runs = Counter("duckmesh_integrity_runs_total", "Integrity runs that ended, by outcome.", ["outcome"])
integrity_files_checked = Counter("duckmesh_integrity_files_checked_total", "Files that integrity runs have checked.")
integrity_missing_files = Counter(
    "duckmesh_integrity_missing_files_total", "Files that integrity runs have found missing."
)
integrity_size_mismatch_files = Counter(
    "duckmesh_integrity_size_mismatch_files_total", "Files that integrity runs have found to be of another size."
)
integrity_checksum_mismatch_files = Counter(
    "duckmesh_integrity_checksum_mismatch_files_total", "Files that integrity runs have found to hold other bytes."
)
restore_drill_runs = Counter("duckmesh_restore_drill_runs_total", "Restore drills that ended, by outcome.", ["outcome"])
restore_drill_duration = Histogram(
    "duckmesh_restore_drill_duration_seconds", "Seconds from a restore drill's start to its end.", buckets=_LONG_SECONDS
)
integrity_orphan_files = Counter(
    "duckmesh_integrity_orphan_files_total", "Objects that integrity runs have found and no row names."
)
integrity_catalog_findings = Counter(
    "duckmesh_integrity_catalog_findings_total", "Contradictions that integrity runs have found within the catalog."
)
compaction_bytes_rewritten = Counter(
    "duckmesh_compaction_bytes_rewritten_total", "Bytes of the data files that compaction has written."
)

_MultiProcess: Any = multiprocess.MultiProcessCollector


def service_registry() -> CollectorRegistry:
    """The metrics of all processes of this service, which share a directory, or of this one if it is alone."""
    if not os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        return REGISTRY
    registry = CollectorRegistry()
    _MultiProcess(registry)
    return registry
