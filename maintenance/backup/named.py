"""What a dump names in the object store: the files of its snapshots, and staged payloads that wait. Reading only."""

from collections.abc import Iterator
from dataclasses import dataclass

from django.db import connection

from maintenance.backup.manifest import BackupObject

# In the order of the keys' bytes, as every store lists them. A file that no kept snapshot names is on its way out.
_NAMED = """
SELECT path, size_bytes, sha256 FROM (
  SELECT f.path, f.size_bytes, f.sha256 FROM data_file f
   WHERE EXISTS (SELECT 1 FROM snapshot_file i JOIN snapshot s
                           ON s.tenant_id = i.tenant_id AND s.snapshot_id >= i.added_in
                          AND (i.removed_in IS NULL OR s.snapshot_id < i.removed_in)
                  WHERE i.file_id = f.file_id)
  UNION ALL
  SELECT g.path, g.size_bytes, NULL FROM ingest_staged g JOIN ingest_event e USING (event_id)
   WHERE g.doomed_at IS NULL AND e.state IN ('pending', 'failed')
) named ORDER BY path COLLATE "C"
"""


@dataclass(frozen=True, kw_only=True)
class DumpFacts:
    """What is told of a dump beside its contents."""

    catalog_id: str
    incarnation: int
    migrations: tuple[str, ...]


def named_objects() -> Iterator[BackupObject]:
    """The objects that the connected catalog names, without the SHA-256 of staged payloads, which nobody recorded."""
    with connection.chunked_cursor() as cursor:
        cursor.execute(_NAMED)
        while rows := cursor.fetchmany(2_000):
            for key, size, sha256 in rows:
                yield BackupObject(key=key, size=size, sha256=sha256)


def applied_migrations() -> tuple[str, ...]:
    """The migrations of the connected database, as `app.name`."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT app || '.' || name FROM django_migrations ORDER BY id")
        return tuple(row[0] for row in cursor.fetchall())


def dump_facts() -> DumpFacts:
    """Of the connected catalog."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT catalog_id, incarnation FROM catalog_identity")
        catalog_id, incarnation = cursor.fetchone()
    return DumpFacts(catalog_id=str(catalog_id), incarnation=incarnation, migrations=applied_migrations())
