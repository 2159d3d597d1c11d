"""Changes of the schema beside a running service: they wait for nobody for long, so that nobody waits for them."""

from typing import Self

from django.db.backends.postgresql import schema

# A change that waits for a lock holds up everybody who comes after it; it fails instead, and is made again later.
LOCK_SECONDS = 4
# No statement holds its locks for longer than this.
STATEMENT_SECONDS = 5


class SchemaEditor(schema.DatabaseSchemaEditor):
    """Django's, in whose transactions a lock is waited for shortly, and no statement takes long.

    What is not in a transaction (an index made concurrently) locks nobody out and may take its time.
    """

    def __enter__(self) -> Self:
        super().__enter__()
        if self.atomic_migration and not self.collect_sql:
            with self.connection.cursor() as cursor:
                cursor.execute(
                    f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'; SET LOCAL statement_timeout = '{STATEMENT_SECONDS}s'"
                )
        return self
