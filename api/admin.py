"""API keys in Django's admin: issued with the key shown once, and revoked. Nothing else of a key can change."""

from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest
from django.template.response import TemplateResponse

from api.keys import create_api_key, revoke_api_key
from api.models import ApiKey, Role
from catalog.models import Tenant
from duckmesh.kernel import clock

if TYPE_CHECKING:  # Django's class takes no type arguments when it runs
    ModelAdmin = admin.ModelAdmin[ApiKey]
else:
    ModelAdmin = admin.ModelAdmin


class IssueForm(forms.Form):
    """What a new key may do, for whom, and for how long."""

    tenant = forms.ModelChoiceField(queryset=Tenant.objects.order_by("tenant_id"))
    name = forms.CharField(max_length=200, required=False, help_text="What the key is for.")
    roles = forms.MultipleChoiceField(choices=Role.choices, widget=forms.CheckboxSelectMultiple)
    expires_at = forms.DateTimeField(
        required=False, help_text="UTC, such as 2030-01-31 12:00; empty: it does not expire."
    )

    def clean_expires_at(self) -> Any:  # a datetime or None, as Django's field makes it
        """A key that never worked would only be a puzzle."""
        expires_at = self.cleaned_data["expires_at"]
        if expires_at is not None and expires_at <= clock.now():
            raise forms.ValidationError("Must be in the future.")
        return expires_at


@admin.register(ApiKey)
class ApiKeyAdmin(ModelAdmin):
    """Keys of all tenants, without their secrets."""

    list_display = ("prefix", "tenant", "name", "role_list", "created_at", "created_by", "expires_at", "revoked_at")
    list_filter = ("tenant", ("revoked_at", admin.EmptyFieldListFilter))
    search_fields = ("key_id", "name")
    ordering = ("-created_at",)
    actions = ("revoke",)
    fields = ("prefix", "tenant", "name", "role_list", "created_at", "created_by", "expires_at", "revoked_at")

    @admin.display(description="roles")
    def role_list(self, key: ApiKey) -> str:
        """The key's roles as text."""
        return ", ".join(key.roles)

    def has_change_permission(self, _request: HttpRequest, _obj: ApiKey | None = None) -> bool:
        """No: a key is revoked and another one issued."""
        return False

    def has_delete_permission(self, _request: HttpRequest, _obj: ApiKey | None = None) -> bool:
        """No: a revoked key still says whose it was."""
        return False

    def has_revoke_permission(self, request: HttpRequest) -> bool:
        """Whoever may change keys, in Django's terms, may revoke them."""
        return request.user.has_perm("api.change_apikey")

    def add_view(
        self, request: HttpRequest, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> TemplateResponse:
        """Issue a key and show it in the answer itself, once: it goes into no message, session or log."""
        if not self.has_add_permission(request):
            raise PermissionDenied
        form = IssueForm(request.POST or None)
        context = {**self.admin_site.each_context(request), **(extra_context or {}), "opts": self.opts, "form": form}
        if request.method != "POST" or not form.is_valid():
            return TemplateResponse(request, "admin/api/apikey/issue.html", {**context, "title": "Issue an API key"})
        given = form.cleaned_data
        created = create_api_key(
            tenant_id=given["tenant"].tenant_id,
            name=given["name"],
            roles=given["roles"],
            expires_at=given["expires_at"],
            actor=f"admin:{request.user.get_username()}",
        )
        self.log_addition(request, ApiKey.objects.get(key_id=created.key_id), "Issued.")
        context |= {"title": "The key is issued", "created": created, "form_url": form_url}
        return TemplateResponse(request, "admin/api/apikey/issued.html", context)

    @admin.action(description="Revoke: the key opens nothing any more", permissions=["revoke"])
    def revoke(self, request: HttpRequest, chosen: QuerySet[ApiKey]) -> None:
        """The chosen keys open nothing, within a second and for ever."""
        for key in chosen:
            revoke_api_key(key_id=key.key_id)
            self.log_change(request, key, "Revoked.")
        self.message_user(request, f"Keys revoked: {len(chosen)}.", messages.SUCCESS)
