"""How many data files wait for compaction, without looking at each: what the metrics show."""

from django.db import connection

from maintenance.tiers import FEWEST_OF_A_LAST_MERGE, CompactionPolicy

# As `tiers.merges` and `tiers.gathers` group them: by table, partition, and how often they were rewritten.
_WAITING = """
SELECT tenant_id, sum(files)::bigint
  FROM (SELECT f.tenant_id, count(*) AS files
          FROM snapshot_file s
          JOIN data_file f ON f.file_id = s.file_id
          JOIN table_def t ON t.table_id = f.table_id
         CROSS JOIN LATERAL (SELECT t.primary_key_cols <> '[]' AND NOT f.folded AS is_fresh,
                                    CASE WHEN %(least)s < 3 THEN 0
                                         WHEN f.folded
                                         THEN floor(ln(greatest(f.size_bytes, 4096) / 4096.0) / ln(%(least)s))
                                         ELSE f.level END AS tier) k
         WHERE s.removed_in IS NULL AND (is_fresh OR f.size_bytes < %(small)s)
         GROUP BY f.tenant_id, f.table_id, f.partition_values, f.folded, is_fresh, tier
        HAVING count(*) >= CASE WHEN is_fresh THEN %(most_fresh)s ELSE %(least)s END
            OR NOT is_fresh AND count(*) >= %(last)s AND sum(f.size_bytes) >= %(small)s) tiers
 GROUP BY tenant_id
"""


def files_waiting(policy: CompactionPolicy) -> dict[str, int]:
    """About how many live files of each tenant a compaction would rewrite now."""
    values = {
        "small": policy.small_bytes,
        "least": policy.min_input_files,
        "most_fresh": policy.max_fresh_files,
        "last": FEWEST_OF_A_LAST_MERGE,
    }
    with connection.cursor() as cursor:
        cursor.execute(_WAITING, values)
        return dict(cursor.fetchall())
