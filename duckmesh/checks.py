"""What `manage.py check` says of a configuration: combinations that work until the day they do damage.

Django's own checks of a deployment speak of one that serves browsers over HTTPS; what of them does not hold for an API
whose TLS may end at a proxy is silenced in the settings, each with its reason.
"""

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register

from duckmesh.dangers import dangers


# `Any`: Django's arguments, which these checks do not need.
@register(Tags.security)
def check_what_is_served(**_: Any) -> list[CheckMessage]:
    """What `duckmesh.serve` would refuse."""
    return [Error(danger.text, hint=danger.hint, id=danger.id) for danger in dangers(settings.DUCKMESH)]


@register("celery")
def check_broker(**_: Any) -> list[CheckMessage]:
    """No message comes a second time while its task may still run."""
    from duckmesh.celery import app  # it reads the settings, which are being read while this module is

    visible_again = app.conf.broker_transport_options["visibility_timeout"]
    limits = [app.conf.task_time_limit, *(one.get("time_limit", 0) for one in app.conf.task_annotations.values())]
    return broker_messages(visibility_timeout=visible_again, hard_limits=limits)


def broker_messages(*, visibility_timeout: float, hard_limits: list[float]) -> list[CheckMessage]:
    """An error if Redis gives a message to a second worker before the first one's time is up."""
    if visibility_timeout > max(hard_limits):
        return []
    return [
        Error(
            f"The broker's visibility_timeout ({visibility_timeout:.0f} s) is not above the longest hard limit of a"
            f" task ({max(hard_limits):.0f} s): long tasks would run twice at once.",
            hint="Raise visibility_timeout in duckmesh/celery.py above every time_limit there.",
            id="duckmesh.E110",
        )
    ]


@register(Tags.security, deploy=True)
def check_deployment(**_: Any) -> list[CheckMessage]:
    """What is right on one's own machine, and not where others depend on it."""
    config = settings.DUCKMESH
    found: list[CheckMessage] = []
    if config.object_store_url is None:
        text = "The data files are in the home of this machine: other instances would not see them."
        hint = "Set DUCKMESH_OBJECT_STORE_URL."
        found.append(Warning(text, hint=hint, id="duckmesh.W201"))
    if config.owner_database_url is None:
        text = "The programs connect to PostgreSQL as the owner of the tables, whom row-level security does not bind."
        hint = "Make the roles, and set DUCKMESH_OWNER_DATABASE_URL: docs/deployment.md, Database roles."
        found.append(Warning(text, hint=hint, id="duckmesh.W203"))
    if config.object_store_url and config.object_store_url.startswith("s3://") and not config.s3_secure:
        text = "The object store is spoken to without TLS."
        hint = "Unset DUCKMESH_S3_SECURE, unless the network between is yours alone."
        found.append(Warning(text, hint=hint, id="duckmesh.W202"))
    return found
