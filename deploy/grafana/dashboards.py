"""The two Grafana dashboards, from one source: `python deploy/grafana/dashboards.py` writes them, `--check` compares.

Every query is executed against a real Prometheus by `make test-ops`. Gauges are the same on every instance of the API,
so they are shown by `max`; counters are summed over all services.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DIRECTORY = Path(__file__).with_name("dashboards")
_DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
_COLUMNS, _HEIGHT = 3, 8


@dataclass(frozen=True, kw_only=True)
class Panel:
    """A graph of some queries, each with its legend; `bound` is drawn as what should not be passed."""

    title: str
    queries: tuple[tuple[str, str], ...]
    unit: str = "short"
    bound: float | None = None
    below_is_bad: bool = False
    says: str = ""


@dataclass(frozen=True, kw_only=True)
class Dashboard:
    """A page of rows of panels."""

    uid: str
    title: str
    rows: tuple[tuple[str, tuple[Panel, ...]], ...]


def quantiles(metric: str, *, by: str = "") -> tuple[tuple[str, str], ...]:
    """p50, p95 and p99 of a histogram."""
    group, legend = (f"le, {by}", f" {{{{{by}}}}}") if by else ("le", "")
    return tuple(
        (f"histogram_quantile({q / 100}, sum by ({group}) (rate({metric}_bucket[5m])))", f"p{q}{legend}")
        for q in (50, 95, 99)
    )


def rate(metric: str, *by: str) -> tuple[str, str]:
    """What a counter counts in a second."""
    return f"sum by ({', '.join(by)}) (rate({metric}[5m]))", " ".join(f"{{{{{label}}}}}" for label in by) or metric


def greatest(metric: str, *by: str) -> tuple[str, str]:
    """A gauge as the API's instances show it."""
    return f"max by ({', '.join(by)}) ({metric})", " ".join(f"{{{{{label}}}}}" for label in by) or metric


SLO = Dashboard(
    uid="duckmesh-slo",
    title="DuckMesh: objectives",
    rows=(
        (
            "Objectives",
            (
                Panel(
                    title="Acknowledgement p95",
                    queries=(("duckmesh:ingest_ack_ms:p95_5m", "p95"),),
                    unit="ms",
                    bound=200,
                    says="From a write's arrival to its durable acceptance.",
                ),
                Panel(
                    title="Write to visible p95",
                    queries=(("duckmesh:write_to_visible_ms:p95_5m", "p95"),),
                    unit="ms",
                    bound=3_000,
                ),
                Panel(title="Query p95", queries=(("duckmesh:query_ms:p95_5m", "p95"),), unit="ms", bound=2_000),
                Panel(
                    title="Strict barriers satisfied",
                    queries=(
                        ("duckmesh:barrier_success:ratio_5m", "5 m"),
                        ("duckmesh:barrier_success:ratio_1h", "1 h"),
                    ),
                    unit="percentunit",
                    bound=0.99,
                    below_is_bad=True,
                ),
                Panel(
                    title="Availability",
                    queries=(("duckmesh:availability:ratio_5m", "5 m"), ("1 - duckmesh:errors:ratio_6h", "6 h")),
                    unit="percentunit",
                    bound=0.999,
                    below_is_bad=True,
                    says="Answers other than 5xx; a wait or a statement that took too long (504) is no failure.",
                ),
                Panel(
                    title="Visibility lag",
                    queries=(greatest("duckmesh_visibility_lag_ms"),),
                    unit="ms",
                    bound=30_000,
                    says="Age of the oldest write that is not yet visible, also with every worker dead.",
                ),
            ),
        ),
        (
            "Requests",
            (
                Panel(title="Answers", queries=(rate("duckmesh_http_responses_total", "status_class"),), unit="reqps"),
                Panel(title="Writes", queries=(rate("duckmesh_ingest_requests_total", "outcome"),), unit="reqps"),
                Panel(title="Queries", queries=(rate("duckmesh_query_requests_total", "outcome"),), unit="reqps"),
                Panel(
                    title="Records",
                    queries=(
                        ("sum(rate(duckmesh_ingest_records_total[5m]))", "accepted"),
                        ("sum(rate(duckmesh_ingest_duplicates_total[5m]))", "duplicate"),
                    ),
                ),
                Panel(
                    title="Latency by view",
                    queries=(*quantiles("django_http_requests_latency_seconds_by_view_method", by="view"),),
                    unit="s",
                ),
                Panel(title="Waits that ran out", queries=(rate("duckmesh_consistency_timeout_total", "waiter"),)),
            ),
        ),
        (
            "Ingest",
            (
                Panel(
                    title="Acknowledgement", queries=quantiles("duckmesh_ingest_ack_latency_ms"), unit="ms", bound=200
                ),
                Panel(title="Write to visible", queries=quantiles("duckmesh_write_to_visible_latency_ms"), unit="ms"),
                Panel(title="Claim to commit", queries=quantiles("duckmesh_commit_batch_latency_ms"), unit="ms"),
                Panel(
                    title="Records that wait",
                    queries=(("max(sum by (instance) (duckmesh_ingest_lag_events))", "records"),),
                ),
                Panel(
                    title="Claims given back, publications that failed",
                    queries=(
                        rate("duckmesh_claim_retries_total", "reason"),
                        (
                            "sum by (reason) (rate(duckmesh_snapshot_publish_failures_total[5m]))",
                            "publication: {{reason}}",
                        ),
                    ),
                ),
                Panel(
                    title="Failed for good",
                    queries=(("max(sum by (instance) (duckmesh_ingest_failed_events))", "records"),),
                    bound=1,
                ),
                Panel(
                    title="Envelopes in a claim",
                    queries=quantiles("duckmesh_claim_batch_size"),
                ),
                Panel(
                    title="Tokens",
                    queries=(greatest("duckmesh_latest_issued_token"), greatest("duckmesh_latest_visibility_token")),
                ),
                Panel(
                    title="Doorbell's errors", queries=(("sum(rate(duckmesh_doorbell_errors_total[5m]))", "errors"),)
                ),
            ),
        ),
        (
            "Queries",
            (
                Panel(title="Query", queries=quantiles("duckmesh_query_latency_ms"), unit="ms", bound=2_000),
                Panel(title="Wait for a runner", queries=quantiles("duckmesh_query_queue_ms"), unit="ms"),
                Panel(title="Runners ended", queries=(rate("duckmesh_runners_ended_total", "reason"),)),
                Panel(title="Files opened", queries=quantiles("duckmesh_query_scanned_files")),
                Panel(title="Bytes of these files", queries=quantiles("duckmesh_query_scanned_bytes"), unit="bytes"),
                Panel(title="File cache", queries=(rate("duckmesh_query_cache_bytes_total", "outcome"),), unit="Bps"),
            ),
        ),
    ),
)

MAINTENANCE = Dashboard(
    uid="duckmesh-maintenance",
    title="DuckMesh: maintenance",
    rows=(
        (
            "Runs",
            (
                Panel(title="Runs that have not ended", queries=(greatest("duckmesh_live_runs", "kind", "state"),)),
                Panel(
                    title="Oldest run that waits",
                    queries=(greatest("duckmesh_oldest_queued_run_seconds", "kind"),),
                    unit="s",
                ),
                Panel(
                    title="Subjects whose newest run failed",
                    queries=(greatest("duckmesh_failing_runs", "kind"),),
                    bound=1,
                ),
                Panel(
                    title="Since the last success",
                    queries=(("time() - max by (kind) (duckmesh_last_successful_run_timestamp_seconds)", "{{kind}}"),),
                    unit="s",
                ),
                Panel(
                    title="Runs ended",
                    queries=(
                        ("sum by (outcome) (increase(duckmesh_compaction_runs_total[1h]))", "compaction {{outcome}}"),
                        ("sum by (outcome) (increase(duckmesh_gc_runs_total[1h]))", "retention {{outcome}}"),
                        ("sum by (outcome) (increase(duckmesh_integrity_runs_total[1h]))", "integrity {{outcome}}"),
                        ("sum by (outcome) (increase(duckmesh_restore_drill_runs_total[1h]))", "drill {{outcome}}"),
                    ),
                    says="In an hour.",
                ),
                Panel(title="Restore drill", queries=quantiles("duckmesh_restore_drill_duration_seconds"), unit="s"),
            ),
        ),
        (
            "The lake",
            (
                Panel(
                    title="Files that wait for compaction",
                    queries=(("max(sum by (instance) (duckmesh_compaction_files_waiting))", "files"),),
                    bound=1_000,
                ),
                Panel(
                    title="Bytes rewritten",
                    queries=(("sum(rate(duckmesh_compaction_bytes_rewritten_total[5m]))", "bytes"),),
                    unit="Bps",
                ),
                Panel(
                    title="Files deleted",
                    queries=(("sum(increase(duckmesh_gc_files_deleted_total[1h]))", "in an hour"),),
                ),
                Panel(title="Findings", queries=(greatest("duckmesh_integrity_findings", "finding"),), bound=1),
                Panel(
                    title="Files checked",
                    queries=(("sum(increase(duckmesh_integrity_files_checked_total[1h]))", "in an hour"),),
                ),
                Panel(title="Housekeeping", queries=(rate("duckmesh_housekeeping_removed_total", "kind"),)),
            ),
        ),
        (
            "Workers and queues",
            (
                Panel(
                    title="Consumers",
                    queries=(greatest("duckmesh_queue_consumers", "queue"),),
                    bound=1,
                    below_is_bad=True,
                ),
                Panel(title="Messages that wait", queries=(greatest("duckmesh_queue_depth", "queue"),)),
                Panel(
                    title="First message",
                    queries=(greatest("duckmesh_queue_oldest_message_seconds", "queue"),),
                    unit="s",
                ),
                Panel(
                    title="Since beat's last tick",
                    queries=(("time() - max(duckmesh_beat_last_tick_timestamp_seconds)", "seconds"),),
                    unit="s",
                    bound=60,
                ),
                Panel(title="Tasks", queries=(rate("duckmesh_tasks_total", "task", "outcome"),)),
                Panel(title="Time of tasks", queries=quantiles("duckmesh_task_duration_seconds", by="task"), unit="s"),
                Panel(title="Messages sent", queries=(rate("duckmesh_task_messages_total", "task"),)),
                Panel(
                    title="Claims",
                    queries=(greatest("duckmesh_expired_claims"), greatest("duckmesh_oldest_claim_age_seconds")),
                ),
                Panel(title="Services that answer", queries=(("up", "{{job}} {{service}} {{instance}}"),)),
            ),
        ),
        (
            "Room",
            (
                Panel(
                    title="Disk left",
                    queries=(
                        (
                            "min by (instance, directory) (duckmesh_disk_free_bytes / duckmesh_disk_size_bytes)",
                            "{{directory}} {{instance}}",
                        ),
                    ),
                    unit="percentunit",
                    bound=0.1,
                    below_is_bad=True,
                ),
                Panel(
                    title="Connections in use",
                    queries=(
                        ("max(duckmesh_database_connections / duckmesh_database_connections_limit)", "of the limit"),
                    ),
                    unit="percentunit",
                    bound=0.85,
                ),
                Panel(title="Database", queries=(greatest("duckmesh_database_bytes"),), unit="bytes"),
                Panel(
                    title="Writes refused",
                    queries=(
                        greatest("duckmesh_writes_refused", "short_of"),
                        ("max(duckmesh_read_only)", "read-only mode"),
                        ("max(duckmesh_catalog_server_changed)", "PostgreSQL changed"),
                    ),
                    bound=1,
                ),
                Panel(
                    title="Statements",
                    queries=(("sum(rate(django_db_execute_total[5m]))", "statements"),),
                    unit="ops",
                ),
                Panel(
                    title="Sources of gauges that answer",
                    queries=(("min by (source) (duckmesh_scrape_source_up)", "{{source}}"),),
                    bound=1,
                    below_is_bad=True,
                ),
            ),
        ),
    ),
)

DASHBOARDS = (SLO, MAINTENANCE)


# `Any`: Grafana's document.
def document(dashboard: Dashboard) -> dict[str, Any]:
    """The dashboard as Grafana reads it."""
    panels: list[dict[str, Any]] = []
    top = 0
    for name, row in dashboard.rows:
        place = {"h": 1, "w": 24, "x": 0, "y": top}
        panels.append({"type": "row", "title": name, "id": len(panels) + 1, "gridPos": place, "panels": []})
        top += 1
        for number, panel in enumerate(row):
            width = 24 // _COLUMNS
            x, y = number % _COLUMNS * width, top + number // _COLUMNS * _HEIGHT
            panels.append(_panel(panel, id_=len(panels) + 1, place={"h": _HEIGHT, "w": width, "x": x, "y": y}))
        top += (len(row) + _COLUMNS - 1) // _COLUMNS * _HEIGHT
    return {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "tags": ["duckmesh"],
        "schemaVersion": 38,
        "version": 1,
        "editable": False,
        "time": {"from": "now-3h", "to": "now"},
        "refresh": "30s",
        "templating": {
            "list": [{"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Source"}]
        },
        "panels": panels,
    }


def _panel(panel: Panel, *, id_: int, place: dict[str, int]) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.bound is not None:
        good, bad = ("red", "green") if panel.below_is_bad else ("green", "red")
        steps = [{"color": good, "value": None}, {"color": bad, "value": panel.bound}]
    style = "off" if panel.bound is None else "dashed"
    return {
        "type": "timeseries",
        "title": panel.title,
        "description": panel.says,
        "id": id_,
        "gridPos": place,
        "datasource": _DATASOURCE,
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit,
                "thresholds": {"mode": "absolute", "steps": steps},
                "custom": {"thresholdsStyle": {"mode": style}, "fillOpacity": 10},
            },
            "overrides": [],
        },
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {"refId": chr(ord("A") + number), "expr": expr, "legendFormat": legend, "datasource": _DATASOURCE}
            for number, (expr, legend) in enumerate(panel.queries)
        ],
    }


def main(arguments: Sequence[str]) -> int:
    """Write the files, or say which are not as they would be written."""
    texts = {
        DIRECTORY / f"{dashboard.uid}.json": json.dumps(document(dashboard), indent=1) + "\n"
        for dashboard in DASHBOARDS
    }
    if "--check" not in arguments:
        for path, text in texts.items():
            path.write_text(text, encoding="utf-8")
        return 0
    stale = [path.name for path, text in texts.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    if stale:
        sys.stderr.write(f"{', '.join(stale)}: not what deploy/grafana/dashboards.py makes; run `make fmt`.\n")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
