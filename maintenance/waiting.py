"""How many data files wait for compaction, without looking at each: what the metrics show."""

from django.db import connection

from maintenance.tiers import CompactionPolicy

# As `tiers.merges` groups them: by table, partition and size, so many of one group at least.
_WAITING = """
SELECT tenant_id, sum(files)::bigint
  FROM (SELECT f.tenant_id, count(*) AS files
          FROM snapshot_file s JOIN data_file f ON f.file_id = s.file_id
         WHERE s.removed_in IS NULL AND f.size_bytes < %(small)s
         GROUP BY f.tenant_id, f.table_id, f.partition_values,
                  floor(ln(greatest(f.size_bytes, 4096) / 4096.0) / ln(%(least)s))
        HAVING count(*) >= %(least)s) tiers
 GROUP BY tenant_id
"""


def files_waiting(policy: CompactionPolicy | None = None) -> dict[str, int]:
    """The live files of each tenant that are small and of which enough have come together to be rewritten."""
    policy = policy or CompactionPolicy()
    # Of files that are larger, so many would not fit into one.
    small = min(policy.target_file_bytes // 2, policy.target_file_bytes // policy.min_input_files)
    with connection.cursor() as cursor:
        cursor.execute(_WAITING, {"small": small, "least": policy.min_input_files})
        return dict(cursor.fetchall())
