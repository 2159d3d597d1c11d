"""What a run of retention may be asked, and what holds for a tenant: what was asked, else its policy, else settings.

A run that somebody asks for keeps what the tenant's policy keeps: it asks for less only by saying so.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Annotated

from pydantic import AfterValidator, Field, ValidationError, WithJsonSchema

from duckmesh.kernel.errors import Invalid
from duckmesh.kernel.spans import PATTERN, ladder, span, spelled
from maintenance.errors import SafetyAgeTooShort
from maintenance.job import JobOptions, Kind, Scope
from maintenance.ladder import RetentionPolicy
from maintenance.policies import Policy, effective
from maintenance.schedule import policies_by_name

_POLICY = "default"
_KEEP = ("keep_last", "keep_all_for", "ladder", "safety_age")


def _is_span(text: str) -> str:
    span(text)
    return text


def _is_ladder(text: str) -> str:
    ladder(text)
    return text


SpanText = Annotated[str, AfterValidator(_is_span), WithJsonSchema({"type": "string", "pattern": PATTERN})]
LadderText = Annotated[str, AfterValidator(_is_ladder)]


class RetentionOptions(JobOptions):
    """What is null is as the policy or the settings say. `orphans`, with dropped tables: now, never, or when due."""

    orphans: bool | None = None
    keep_last: int | None = Field(None, ge=1)
    keep_all_for: SpanText | None = None
    ladder: LadderText | None = None
    safety_age: SpanText | None = None


@dataclass(frozen=True, kw_only=True)
class RetentionLimits:
    """How soon things are deleted, and how soon they may be asked to. All ages are told by the database's clock."""

    safety_age: timedelta
    least_safety_age: timedelta
    orphan_grace: timedelta
    sweep_every: timedelta


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What a tenant's snapshots and files are kept by."""

    policy: RetentionPolicy
    safety_age: timedelta


def rules_for(
    scopes: Iterable[Scope], *, asked: RetentionOptions, policy: RetentionPolicy, limits: RetentionLimits
) -> list[Rules]:
    """The rules for each of these, in their order; `policy` and `limits` are the configuration's.

    Raises `SafetyAgeTooShort`, and `Invalid` for a policy whose options are none.
    """
    policies = policies_by_name().get((Kind.RETENTION, _POLICY), [])
    return [_rules(_own(policies, scope), asked, policy, limits) for scope in scopes]


def _own(policies: Iterable[Policy], scope: Scope) -> RetentionOptions:
    found = effective(policies, scope)
    kept = {} if found is None else {name: value for name, value in found.options.items() if name in _KEEP}
    try:
        return RetentionOptions.model_validate(kept)
    except ValidationError as exc:
        raise Invalid(
            "The policy of retention has options that are none; nothing is deleted.", tenant_id=scope.tenant_id
        ) from exc


def _rules(own: RetentionOptions, asked: RetentionOptions, policy: RetentionPolicy, limits: RetentionLimits) -> Rules:
    options = own.model_copy(update={name: getattr(asked, name) for name in _KEEP if getattr(asked, name) is not None})
    safety_age = limits.safety_age if options.safety_age is None else span(options.safety_age)
    if safety_age < limits.least_safety_age:
        raise SafetyAgeTooShort(
            "The safety age is shorter than the longest query or attempt: what they read could be deleted.",
            safety_age=spelled(safety_age),
            at_least=spelled(limits.least_safety_age),
        )
    kept = replace(
        policy,
        keep_last=policy.keep_last if options.keep_last is None else options.keep_last,
        keep_all_for=policy.keep_all_for if options.keep_all_for is None else span(options.keep_all_for),
        rungs=policy.rungs if options.ladder is None else ladder(options.ladder),
    )
    return Rules(policy=kept, safety_age=safety_age)
