"""Time passes by moving what was recorded back: the database's clock cannot be turned."""

from datetime import timedelta

from django.db import connection, transaction

_TIMES = {
    "tenant": ("created_at",),
    "tenant_catalog": ("snapshot_time",),
    "snapshot": ("snapshot_time", "valid_until"),
    "snapshot_pin": ("created_at", "expires_at"),
    "file_hold": ("created_at", "expires_at"),
    "data_file": ("created_at", "unreferenced_since", "tombstoned_at"),
    "orphan_sighting": ("first_seen", "last_seen"),
    "orphan_sweep": ("ended_at",),
}


@transaction.atomic
def advance(by: timedelta, *, only: str | None = None) -> None:
    """All that the catalog has recorded (or that is in one table) lies so much further back."""
    with connection.cursor() as cursor:
        for table, columns in _TIMES.items():
            if only in (None, table):
                moved = ", ".join(f"{column} = {column} - %(by)s" for column in columns)
                cursor.execute(f"UPDATE {table} SET {moved}", {"by": by})
