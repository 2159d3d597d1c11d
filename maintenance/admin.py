"""Maintenance in Django's admin: policies are edited, and shown as they hold; runs and what they found are shown."""

import itertools
from typing import TYPE_CHECKING, Any

import structlog
from django import forms
from django.conf import settings
from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest
from django.template.response import TemplateResponse
from django.urls import path

from catalog.admin import ReadOnlyAdmin
from catalog.models import TableDef
from duckmesh.kernel.errors import Invalid
from maintenance.asking import parse_options
from maintenance.job import Kind
from maintenance.jobs import jobs
from maintenance.models import (
    CompactionRun,
    GcRun,
    IntegrityFinding,
    IntegrityRun,
    MaintenancePolicy,
    RestoreDrillRun,
    Run,
)
from maintenance.overview import outlooks
from maintenance.schedule import policy_of

log = structlog.get_logger(__name__)

if TYPE_CHECKING:  # Django's classes take no type arguments when they run
    PolicyModelAdmin = admin.ModelAdmin[MaintenancePolicy]
    PolicyModelForm = forms.ModelForm[MaintenancePolicy]
else:
    PolicyModelAdmin = admin.ModelAdmin
    PolicyModelForm = forms.ModelForm

MOST_OUTLOOKS = 1_000


class PolicyForm(PolicyModelForm):
    """A policy that a tick can act upon: its options are the job's."""

    class Meta:
        model = MaintenancePolicy
        fields = ("kind", "name", "tenant", "table", "enabled", "interval", "window_start", "window_end", "options")
        help_texts = {
            "name": "Of the policies of one kind and name the most specific holds: for the table, the tenant, all.",
            "tenant": "Empty: all tenants.",
            "table": "Empty: all tables.",
            "interval": "Between two runs: days hours:minutes:seconds, such as 00:01:00 or 7 00:00:00.",
            "window_start": "UTC. With an end before it, over midnight. Both empty: the whole day.",
            "options": "What the run is asked for with, as in the API; JSON.",
        }

    # `Any`: the form's fields are whatever they hold.
    def clean(self) -> dict[str, Any]:
        """The options are ones that the job takes, and the table is the tenant's."""
        given: dict[str, Any] = super().clean() or {}
        kind, table, tenant = given.get("kind"), given.get("table"), given.get("tenant")
        registered = jobs(settings.DUCKMESH)
        if kind is not None and Kind(kind) in registered and isinstance(given.get("options"), dict):
            try:
                parse_options(registered[Kind(kind)], given["options"])
            except Invalid as exc:
                self.add_error("options", exc.message)
        elif "options" in given and not isinstance(given["options"], dict):
            self.add_error("options", "Must be a JSON object.")
        if table is not None and (tenant is None or table.tenant_id != tenant.pk):
            self.add_error("table", "Must be a table of the tenant.")
        if kind == Kind.RESTORE_DRILL and (table is not None or tenant is not None):
            self.add_error("tenant", "A drill is of everything.")
        if (given.get("window_start") is None) != (given.get("window_end") is None):
            self.add_error("window_end", "A window has a start and an end.")
        return given


@admin.register(MaintenancePolicy)
class MaintenancePolicyAdmin(PolicyModelAdmin):
    """When maintenance happens by itself, and to what."""

    form = PolicyForm
    list_display = ("kind", "name", "tenant", "table", "enabled", "interval", "window", "options")
    list_filter = ("kind", "enabled", "tenant")
    list_select_related = ("tenant", "table")
    ordering = ("kind", "name", "tenant_id", "table_id")
    change_list_template = "admin/maintenance/maintenancepolicy/change_list.html"

    # `Any`: Django's signature.
    def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        """A table that was dropped needs no policy."""
        if db_field.name == "table":
            kwargs["queryset"] = TableDef.objects.filter(dropped_in=None).order_by("tenant_id", "name")
        return super().formfield_for_foreignkey(db_field, request, **kwargs)

    # `Any`: Django's signatures.
    def save_model(self, request: HttpRequest, obj: MaintenancePolicy, form: Any, change: bool) -> None:
        """The policy holds from the next tick on."""
        super().save_model(request, obj, form, change)
        log.info("policy_changed", policy=str(policy_of(obj)), actor=f"admin:{request.user.pk}")

    def log_deletions(self, request: HttpRequest, queryset: Any) -> Any:
        """Policies are deleted, one or many, through this."""
        for policy in queryset:
            log.info("policy_deleted", policy=str(policy_of(policy)), actor=f"admin:{request.user.pk}")
        return super().log_deletions(request, queryset)

    @admin.display(description="window (UTC)")
    def window(self, policy: MaintenancePolicy) -> str:
        """The part of the day."""
        return f"{policy.window_start:%H:%M}-{policy.window_end:%H:%M}" if policy.window_start else "all day"

    def get_urls(self) -> list[Any]:
        """With the page of what holds."""
        own = path(
            "effective/", self.admin_site.admin_view(self.effective), name="maintenance_maintenancepolicy_effective"
        )
        return [own, *super().get_urls()]

    def effective(self, request: HttpRequest) -> TemplateResponse:
        """What happens by itself to each tenant and table, by which policy, and when next; `?tenant=` for one."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        found = list(itertools.islice(outlooks(tenant_id=request.GET.get("tenant") or None), MOST_OUTLOOKS + 1))
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": "What happens by itself",
            "outlooks": found[:MOST_OUTLOOKS],
            "more": len(found) > MOST_OUTLOOKS,
        }
        return TemplateResponse(request, "admin/maintenance/maintenancepolicy/effective.html", context)


@admin.register(CompactionRun, GcRun, IntegrityRun, RestoreDrillRun)
class RunAdmin(ReadOnlyAdmin):
    """Runs, with how far they are. They are asked for and cancelled through the API and by command."""

    list_display = (
        "run_id",
        "tenant",
        "table",
        "state",
        "done",
        "phase",
        "attempts",
        "requested_by",
        "reason",
        "requested_at",
        "ended_at",
        "error_code",
    )
    list_filter = ("state", "tenant")
    list_select_related = ("tenant", "table")
    ordering = ("-requested_at",)

    @admin.display(description="progress", ordering="progress")
    def done(self, run: Run) -> str:
        """So much of all its work."""
        return f"{run.progress:.0%}"


@admin.register(IntegrityFinding)
class FindingAdmin(ReadOnlyAdmin):
    """What integrity runs have found."""

    list_display = ("id", "run", "tenant", "kind", "severity", "object_key", "runbook", "found_at")
    list_filter = ("severity", "kind", "tenant")
    list_select_related = ("run", "tenant")
    ordering = ("-id",)
