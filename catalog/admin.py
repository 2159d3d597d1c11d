"""The catalog in Django's admin: tenants are made, suspended and resumed; what publishing writes is only shown."""

from typing import TYPE_CHECKING

from django import forms
from django.contrib import admin, messages
from django.db.models import Model, QuerySet
from django.http import HttpRequest

from catalog.models import Snapshot, TableDef, Tenant
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


class TenantForm(TenantModelForm):
    """The id is asked for once; afterwards only the name can change."""

    tenant_id = forms.RegexField(
        regex=rf"^{TENANT_ID.pattern}\Z",
        label="Id",
        help_text="Lower-case letters, digits, '-' and '_'; it never changes.",
    )

    class Meta:
        model = Tenant
        fields = ("tenant_id", "name")


@admin.register(Tenant)
class TenantAdmin(TenantModelAdmin):
    """Tenants, with what may be done to them: nothing of a tenant is ever deleted here."""

    form = TenantForm
    list_display = ("tenant_id", "name", "state", "created_at")
    list_filter = ("state",)
    search_fields = ("tenant_id", "name")
    actions = ("suspend", "resume")

    def get_readonly_fields(self, _request: HttpRequest, obj: Tenant | None = None) -> tuple[str, ...]:
        """Of a tenant that exists, only the name can be edited."""
        return ("tenant_id", "state", "created_at") if obj else ()

    def has_delete_permission(self, _request: HttpRequest, _obj: Tenant | None = None) -> bool:
        """No: keys and files would lose their owner."""
        return False

    def save_model(self, request: HttpRequest, obj: Tenant, _form: object, change: bool) -> None:
        """A new tenant comes from the service, so that its snapshot 0 exists."""
        if change:
            obj.save(update_fields=["name"])
        else:
            create_tenant(tenant_id=obj.tenant_id, name=obj.name, actor=f"admin:{request.user.get_username()}")

    @admin.action(description="Suspend: no key of the tenant opens anything", permissions=["change"])
    def suspend(self, request: HttpRequest, chosen: QuerySet[Tenant]) -> None:
        """The chosen tenants' keys open nothing, within a second."""
        for tenant in chosen:
            suspend_tenant(tenant_id=tenant.tenant_id)
            self.log_change(request, tenant, "Suspended.")
        self.message_user(request, f"Tenants suspended: {len(chosen)}.", messages.SUCCESS)

    @admin.action(description="Resume: the tenant's keys open again", permissions=["change"])
    def resume(self, request: HttpRequest, chosen: QuerySet[Tenant]) -> None:
        """The chosen tenants' keys open again."""
        for tenant in chosen:
            resume_tenant(tenant_id=tenant.tenant_id)
            self.log_change(request, tenant, "Resumed.")
        self.message_user(request, f"Tenants resumed: {len(chosen)}.", messages.SUCCESS)


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
