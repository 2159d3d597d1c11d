"""The members of control bodies: what requests are checked against, and what the OpenAPI document shows of them.

Types are JSON's, strictly: "5" is no number and 1 is no boolean. A member that nobody knows is refused by name.
"""

from datetime import UTC, datetime
from typing import Any

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

BIGGEST = 2**63 - 1

# `Any` in this file: REST framework's own signatures; a serializer takes whatever JSON held and says what is wrong.


class Integer(serializers.IntegerField):
    """A JSON number without fraction."""

    def to_internal_value(self, data: Any) -> int:
        """The number itself; nothing is converted."""
        if type(data) is not int:
            self.fail("invalid")
        return data


class Boolean(serializers.BooleanField):
    """`true` or `false`."""

    def to_internal_value(self, data: Any) -> bool:
        """The value itself; nothing is converted."""
        if not isinstance(data, bool):
            self.fail("invalid", input=data)
        return data


class Text(serializers.CharField):
    """A JSON string, as it is."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(trim_whitespace=False, **kwargs)

    def to_internal_value(self, data: Any) -> str:
        """The string itself; nothing is converted."""
        if not isinstance(data, str):
            self.fail("invalid")
        return data


@extend_schema_field(OpenApiTypes.DATETIME)
class Instant(serializers.Field[datetime, Any, Any, Any]):
    """An RFC 3339 instant with its offset."""

    default_error_messages = {"invalid": "Must be an RFC 3339 time with an offset, such as 2013-01-01T10:00:00Z."}

    def to_internal_value(self, data: Any) -> datetime:
        """The instant in UTC."""
        try:
            instant = datetime.fromisoformat(data)
        except (TypeError, ValueError):
            self.fail("invalid")
        if instant.tzinfo is None:
            self.fail("invalid")
        try:
            return instant.astimezone(UTC)
        except OverflowError:
            self.fail("invalid")

    def to_representation(self, value: Any) -> Any:
        """Only for the OpenAPI document; answers are encoded elsewhere."""
        return value


@extend_schema_field({"oneOf": [{"type": "array", "items": {}}, {"type": "object", "additionalProperties": {}}]})
class Parameters(serializers.Field[Any, Any, Any, Any]):
    """An array for `?`, an object for `$name`."""

    default_error_messages = {"invalid": "Must be an array (for ?) or an object (for $name)."}

    def to_internal_value(self, data: Any) -> Any:
        """The values as they are."""
        if not isinstance(data, list | dict):
            self.fail("invalid")
        return data

    def to_representation(self, value: Any) -> Any:
        """Only for the OpenAPI document."""
        return value


class Body(serializers.Serializer[Any]):
    """The members of a JSON object; any other member is refused by name."""

    def to_internal_value(self, data: Any) -> Any:
        """The checked members."""
        if unknown := sorted(set(data) - set(self.fields)):
            raise serializers.ValidationError(
                {name[:100]: ["This member is not known here."] for name in unknown[:100]}
            )
        return super().to_internal_value(data)


def checked(serializer: type[Body], body: Any) -> dict[str, Any]:
    """The members of `body` as the serializer reads them; raises what becomes a 400 naming each wrong one."""
    bound = serializer(data=body)
    bound.is_valid(raise_exception=True)
    return dict(bound.validated_data)


class QueryBody(Body):
    """`POST /v1/query`."""

    sql = Text(help_text="One read-only statement.")
    params = Parameters(required=False, help_text="Values: an array for `?`, an object for `$name`.")
    snapshot_id = Integer(
        required=False, min_value=0, help_text="Read this snapshot. Not together with `snapshot_time`."
    )
    snapshot_time = Instant(required=False, help_text="Read the snapshot that was the latest at this time.")
    min_visibility_token = Integer(
        required=False, help_text="Wait until every write acknowledged with a token up to this one is visible."
    )
    consistency_timeout_ms = Integer(
        default=5_000, min_value=0, max_value=BIGGEST, help_text="Longest wait for the token."
    )
    timeout_ms = Integer(
        default=30_000, min_value=1, max_value=BIGGEST, help_text="Longest time the statement may run."
    )
    row_limit = Integer(
        default=10_000,
        min_value=1,
        max_value=BIGGEST,
        help_text="Most rows in the answer; `truncated` says that there were more.",
    )
