"""Shapes of what the addresses of the runs take and answer."""

from collections.abc import Mapping
from typing import Any

from rest_framework import serializers

from api.running import DEFAULT_SECONDS, LONGEST_SECONDS
from api.serializers import Shape
from maintenance.job import Job, Kind
from maintenance.models import Run


# `Any`: a part of the OpenAPI document.
def body_schema(job: Job) -> Mapping[str, Any]:
    """The body that asks for a run of this job."""
    options = job.options.model_json_schema()["properties"]
    return {
        "type": "object",
        "properties": {
            "table": {"type": ["string", "null"], "description": "The table; without it all tables of the tenant."},
            "wait_seconds": {
                "type": "number",
                "minimum": 0,
                "maximum": LONGEST_SECONDS,
                "default": DEFAULT_SECONDS,
                "description": "How long to wait for the run's end. It goes on whether or not somebody waits.",
            },
            "reason": {"type": "string", "maxLength": 200, "description": "Why; kept with the run."},
            **{name: schema for name, schema in options.items() if name not in job.command_only},
        },
        "additionalProperties": False,
    }


class CompletedRun(Shape):
    """A run that has ended well while the request waited."""

    status = serializers.ChoiceField(choices=["completed"])
    run_id = serializers.UUIDField()
    summary = serializers.DictField(help_text="What it has done, or would do if it is a dry run.")


class StartedRun(Shape):
    """A run that waits for its turn or is computed; `Location` says where to look."""

    status = serializers.ChoiceField(choices=["running"])
    run_id = serializers.UUIDField()


class ListedRun(Shape):
    """A run among others."""

    run_id = serializers.UUIDField()
    kind = serializers.ChoiceField(choices=[kind.value for kind in Kind])
    state = serializers.ChoiceField(choices=Run.State.values)
    tenant_id = serializers.CharField()
    table_name = serializers.CharField(allow_null=True, help_text="Null: all tables of the tenant.")
    progress = serializers.FloatField(help_text="So much of all its work is done: 0 to 1.")
    phase = serializers.CharField(help_text="What it does now, or did last.")
    attempts = serializers.IntegerField(help_text="Processes that took it since it last came further.")
    cancel_requested = serializers.BooleanField()
    options = serializers.DictField()
    summary = serializers.DictField(help_text="What it has done or found. In lists, its numbers alone.")
    error_code = serializers.CharField(allow_null=True)
    error = serializers.CharField(allow_null=True)
    requested_by = serializers.CharField(help_text="`key:ID`, `policy:NAME` or `operator`.")
    reason = serializers.CharField()
    requested_at = serializers.DateTimeField()
    started_at = serializers.DateTimeField(allow_null=True)
    ended_at = serializers.DateTimeField(allow_null=True)


class RunList(Shape):
    """A page of the tenant's runs, the newest first."""

    tenant_id = serializers.CharField()
    runs = ListedRun(many=True)
    next_cursor = serializers.CharField(allow_null=True, help_text="`cursor` of the next page; null on the last.")


class Finding(Shape):
    """One disagreement that an integrity run found."""

    kind = serializers.CharField()
    severity = serializers.ChoiceField(choices=["info", "warning", "error"])
    runbook = serializers.CharField(help_text="The page of `runbooks/` to open.")
    table_id = serializers.IntegerField(allow_null=True)
    file_id = serializers.IntegerField(allow_null=True)
    object_key = serializers.CharField()
    detail = serializers.DictField(help_text="What it touches, and what would bring back what is lost.")
    found_at = serializers.DateTimeField()


class OneRun(ListedRun):
    """A run with its steps, and a page of its findings."""

    steps = serializers.ListField(child=serializers.DictField(), help_text="What it has done, in order; 1,000 at most.")
    findings = Finding(many=True)
    next_cursor = serializers.CharField(allow_null=True, help_text="`cursor` of the next findings; null on the last.")
