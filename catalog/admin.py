"""The catalog in Django's admin: tenants are made, limited, suspended, resumed; what publishing writes is shown."""

from typing import TYPE_CHECKING, Any

from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.db.models import Model, QuerySet
from django.http import HttpRequest
from django.template.defaultfilters import filesizeformat

from catalog.limits import GREATEST, MEANINGS, Limits, effective_limits, set_limits, usage
from catalog.mode import set_mode
from catalog.models import ServiceMode, Snapshot, TableDef, Tenant, TenantLimitChange
from catalog.models.tenant import LIMITS
from catalog.tenants import TENANT_ID, create_tenant, resume_tenant, suspend_tenant

if TYPE_CHECKING:  # Django's class takes no type arguments when it runs
    ModelAdmin = admin.ModelAdmin[Model]
    TenantModelAdmin = admin.ModelAdmin[Tenant]
    TenantModelForm = forms.ModelForm[Tenant]
else:
    ModelAdmin = TenantModelAdmin = admin.ModelAdmin
    TenantModelForm = forms.ModelForm


class ReadOnlyAdmin(ModelAdmin):
    """Rows that the service alone writes."""

    show_full_result_count = False
    list_per_page = 50

    def has_add_permission(self, _request: HttpRequest) -> bool:
        """No: a row comes from what the service does."""
        return False

    def has_change_permission(self, _request: HttpRequest, _obj: Model | None = None) -> bool:
        """No: the catalog is changed by publishing alone."""
        return False

    def has_delete_permission(self, _request: HttpRequest, _obj: Model | None = None) -> bool:
        """No: deletion belongs to retention."""
        return False


def _default(limit: str) -> str:
    value = getattr(settings.DUCKMESH, limit)
    return f"Empty is the default of the configuration, {f'{value:,}' if value else 'no bound'}"


class TenantForm(TenantModelForm):
    """The id is asked for once; afterwards only the name and the limits can change."""

    tenant_id = forms.RegexField(
        regex=rf"^{TENANT_ID.pattern}\Z",
        label="Id",
        help_text="Lower-case letters, digits, '-' and '_'; it never changes.",
    )

    class Meta:
        model = Tenant
        fields = ("tenant_id", "name", *LIMITS)

    # `Any`: the signature of Django's forms, which is theirs alone to know.
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for limit, meaning in MEANINGS.items():
            self.fields[limit] = forms.IntegerField(
                required=False,
                min_value=0,
                max_value=GREATEST,
                label=limit.replace("_", " ").capitalize(),
                help_text=f"{meaning} {_default(limit)}; 0 is no bound.",
            )


USAGE = ("stored_bytes", "stored_files", "pending_records")


def _effective(tenant: Tenant) -> Limits:
    return effective_limits(tenant_id=tenant.tenant_id, defaults=Limits.of(settings.DUCKMESH))


def _of(used: int, bound: int) -> str:
    return f"{used:,} of {f'{bound:,}' if bound else 'any number'}"


def _actor(request: HttpRequest) -> str:
    return f"admin:{request.user.get_username()}"


@admin.register(Tenant)
class TenantAdmin(TenantModelAdmin):
    """Tenants, with what may be done to them: nothing of a tenant is ever deleted here."""

    form = TenantForm
    list_display = ("tenant_id", "name", "state", "created_at")
    list_filter = ("state",)
    search_fields = ("tenant_id", "name")
    actions = ("suspend", "resume")

    def get_readonly_fields(self, _request: HttpRequest, obj: Tenant | None = None) -> tuple[str, ...]:
        """Of a tenant that exists, only the name and the limits can be edited."""
        return ("tenant_id", "state", "created_at", *USAGE) if obj else ()

    # `Any`: Django's own type of the sets is a union nobody can write down.
    def get_fieldsets(self, _request: HttpRequest, obj: Tenant | None = None) -> Any:
        """Limits on their own; of a tenant that exists, beside what it uses."""
        own = ("tenant_id", "name", *(("state", "created_at") if obj else ()))
        limits = ("Limits", {"fields": LIMITS, "description": "They hold from the tenant's next write on."})
        return [(None, {"fields": own}), limits, *([("In use", {"fields": USAGE})] if obj else [])]

    @admin.display(description="Stored bytes")
    def stored_bytes(self, tenant: Tenant) -> str:
        """Against the quota."""
        used = usage(tenant_id=tenant.tenant_id).stored_bytes
        quota = _effective(tenant).max_stored_bytes
        return f"{filesizeformat(used)} of {filesizeformat(quota) if quota else 'any number'}"

    @admin.display(description="Stored files")
    def stored_files(self, tenant: Tenant) -> str:
        """Against the quota."""
        return _of(usage(tenant_id=tenant.tenant_id).stored_files, _effective(tenant).max_stored_files)

    @admin.display(description="Pending records")
    def pending_records(self, tenant: Tenant) -> str:
        """Against the bound."""
        return _of(usage(tenant_id=tenant.tenant_id).pending_records, _effective(tenant).max_pending_records)

    def has_delete_permission(self, _request: HttpRequest, _obj: Tenant | None = None) -> bool:
        """No: keys and files would lose their owner."""
        return False

    # `Any`: the form's fields are whatever they hold.
    def save_model(self, request: HttpRequest, obj: Tenant, form: Any, change: bool) -> None:
        """A new tenant comes from the service, so that its snapshot 0 exists; so do limits, with who set them."""
        actor = _actor(request)
        if change:
            obj.save(update_fields=["name"])
        else:
            create_tenant(tenant_id=obj.tenant_id, name=obj.name, actor=actor)
        changes = {limit: form.cleaned_data[limit] for limit in LIMITS if limit in form.changed_data}
        set_limits(tenant_id=obj.tenant_id, changes=changes, actor=actor)

    @admin.action(description="Suspend: no key of the tenant opens anything", permissions=["change"])
    def suspend(self, request: HttpRequest, chosen: QuerySet[Tenant]) -> None:
        """The chosen tenants' keys open nothing, within a second."""
        for tenant in chosen:
            suspend_tenant(tenant_id=tenant.tenant_id, reason="", actor=_actor(request))
            self.log_change(request, tenant, "Suspended.")
        self.message_user(request, f"Tenants suspended: {len(chosen)}.", messages.SUCCESS)

    @admin.action(description="Resume: the tenant's keys open again", permissions=["change"])
    def resume(self, request: HttpRequest, chosen: QuerySet[Tenant]) -> None:
        """The chosen tenants' keys open again."""
        for tenant in chosen:
            resume_tenant(tenant_id=tenant.tenant_id, reason="", actor=_actor(request))
            self.log_change(request, tenant, "Resumed.")
        self.message_user(request, f"Tenants resumed: {len(chosen)}.", messages.SUCCESS)


@admin.register(TenantLimitChange)
class LimitChangeAdmin(ReadOnlyAdmin):
    """Who set which limits."""

    list_display = ("tenant", "changes", "changed_by", "changed_at")
    list_filter = ("tenant",)
    ordering = ("-changed_at",)


@admin.register(TableDef)
class TableAdmin(ReadOnlyAdmin):
    """Tables, dropped ones too."""

    list_display = (
        "table_id",
        "tenant",
        "name",
        "schema_version",
        "created_in",
        "dropped_in",
        "created_at",
        "created_by",
    )
    list_filter = ("tenant",)
    search_fields = ("name",)
    ordering = ("-table_id",)


@admin.register(Snapshot)
class SnapshotAdmin(ReadOnlyAdmin):
    """The history of each tenant."""

    list_display = ("tenant", "snapshot_id", "kind", "snapshot_time", "visible_token", "created_by")
    list_filter = ("tenant", "kind")
    ordering = ("-snapshot_time",)


@admin.register(ServiceMode)
class ServiceModeAdmin(ModelAdmin):
    """Whether the service takes writes: one row, made by whoever first chooses a mode."""

    list_display = ("mode", "reason", "changed_by", "since")
    fields = ("mode", "reason", "changed_by", "since")
    readonly_fields = ("changed_by", "since")
    actions = None

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Once."""
        return super().has_add_permission(request) and not ServiceMode.objects.exists()

    def has_delete_permission(self, _request: HttpRequest, _obj: Model | None = None) -> bool:
        """No: choose the normal mode."""
        return False

    # `Any`: the form's fields are whatever they hold.
    def save_model(self, request: HttpRequest, _obj: Model, form: Any, _change: bool) -> None:
        """Through the service, so that it is on record who chose the mode."""
        chosen = form.cleaned_data
        set_mode(
            mode=ServiceMode.Mode(chosen["mode"]),
            reason=chosen["reason"],
            actor=_actor(request),
        )
