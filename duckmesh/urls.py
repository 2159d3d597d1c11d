"""Every address of DuckMesh."""

from django.conf import settings
from django.contrib import admin
from django.urls import path

from api.views import docs, failed, history, ingest, limits, ops, pins, query, runs, schema, snapshots, tables
from maintenance.jobs import jobs

urlpatterns = [
    path("v1/tables", tables.Tables.as_view(), name="tables"),
    path("v1/tables/<str:table>", tables.Table.as_view(), name="table"),
    path("v1/ingest/<str:table>", ingest.Ingest.as_view(), name="ingest"),
    path("v1/failed-events", failed.FailedEvents.as_view(), name="failed-events"),
    path("v1/failed-events/<str:id>", failed.OneFailedEvent.as_view(), name="failed-event"),
    path("v1/failed-events/<str:id>/replay", failed.ReplayedEvent.as_view(), name="replay-failed-event"),
    path("v1/query", query.Query.as_view(), name="query"),
    path("v1/query/schema", schema.QuerySchema.as_view(), name="query-schema"),
    path("v1/query/history", history.History.as_view(), name="query-history"),
    path("v1/queries", history.Queries.as_view(), name="queries"),
    path("v1/queries/<str:query>", history.OneQuery.as_view(), name="running-query"),
    path("v1/snapshots", snapshots.Snapshots.as_view(), name="snapshots"),
    path("v1/snapshots/pin", pins.NewPin.as_view(), name="new-pin"),
    path("v1/snapshots/restore", snapshots.Restore.as_view(), name="restore"),
    path("v1/snapshots/pins", pins.Pins.as_view(), name="pins"),
    path("v1/snapshots/pins/<str:name>", pins.OnePin.as_view(), name="pin"),
    path("v1/snapshots/<str:id>", snapshots.OneSnapshot.as_view(), name="snapshot"),
    path("v1/snapshots/<str:id>/diff", snapshots.SnapshotDiff.as_view(), name="snapshot-diff"),
    *(
        path(f"v1/{kind.value.replace('_', '-')}/run", runs.new_run_view(job).as_view(), name=f"run-{kind.value}")
        for kind, job in jobs(settings.DUCKMESH).items()
    ),
    path("v1/runs", runs.Runs.as_view(), name="runs"),
    path("v1/runs/<str:id>", runs.OneRun.as_view(), name="run"),
    path("v1/limits", limits.TenantLimits.as_view(), name="limits"),
    path("v1/lag", ops.Lag.as_view(), name="lag"),
    path("v1/health", ops.Health.as_view(), name="health"),
    path("v1/ready", ops.Ready.as_view(), name="ready"),
    path("v1/doctor", ops.Examination.as_view(), name="doctor"),
    path("v1/metrics", ops.Metrics.as_view(), name="metrics"),
    path("v1/openapi.json", docs.OpenApi.as_view(), name="openapi"),
    path("v1/docs", docs.Docs.as_view(), name="docs"),
    path("admin/", admin.site.urls),
]

handler400 = "api.handlers.failed"
handler403 = "api.handlers.failed"
handler404 = "api.handlers.failed"
handler500 = "api.handlers.server_error"
