"""Contradictions put into a catalog by hand, and what integrity calls them.

The tenant `%(tenant)s` has one table since its snapshot 1, and the snapshots 2, 3 and 4 have each added a file of one
row: that with the token 1, 2 and 3.
"""

_OURS = "tenant_id = %(tenant)s"

CONTRADICTIONS: dict[str, tuple[str, set[str]]] = {
    "totals of a snapshot": (
        f"UPDATE snapshot_table_watermark SET row_count = row_count + 7 WHERE {_OURS} AND snapshot_id = 3",
        {"totals_mismatch"},
    ),
    "counter": (f"UPDATE tenant_catalog SET stored_bytes = stored_bytes + 1 WHERE {_OURS}", {"counter_mismatch"}),
    "gap": (f"DELETE FROM snapshot WHERE {_OURS} AND snapshot_id = 3", {"snapshot_gap"}),
    "parent": (f"UPDATE snapshot SET parent_id = 1 WHERE {_OURS} AND snapshot_id = 4", {"parent_mismatch"}),
    "watermark": (f"UPDATE snapshot SET visible_token = 9 WHERE {_OURS} AND snapshot_id = 3", {"watermark_fell"}),
    "time": (
        f"UPDATE snapshot SET snapshot_time = snapshot_time - interval '1 hour' WHERE {_OURS} AND snapshot_id = 3",
        {"snapshot_time_order"},
    ),
    "head": (f"UPDATE tenant_catalog SET snapshot_seq = 9 WHERE {_OURS}", {"head_mismatch"}),
    "tokens": (
        f"DELETE FROM ingest_event WHERE {_OURS} AND last_token = 3",
        {"watermark_beyond_tokens", "key_without_write"},
    ),
    "change log": (
        f"""UPDATE snapshot SET summary = summary || '{{"added_files": 2}}' WHERE {_OURS} AND snapshot_id = 3""",
        {"change_log_mismatch"},
    ),
    "overlap": (
        f"""INSERT INTO snapshot_file (file_id, tenant_id, table_id, added_in, removed_in)
            SELECT file_id, tenant_id, table_id, 1, 4 FROM snapshot_file WHERE {_OURS} AND added_in = 3""",
        {"intervals_overlap", "totals_mismatch", "change_log_mismatch", "file_ahead_of_watermark"},
    ),
    "interval before its table": (f"UPDATE table_def SET created_in = 3 WHERE {_OURS}", {"interval_outside_table"}),
    "interval beyond the head": (
        f"UPDATE snapshot_file SET removed_in = 5 WHERE {_OURS} AND added_in = 3",
        {"interval_beyond_head"},
    ),
    "tombstone": (
        f"UPDATE data_file SET unreferenced_since = now(), tombstoned_at = now() WHERE {_OURS} AND max_token = 2",
        {"named_file_tombstoned"},
    ),
    "mark": (
        f"UPDATE data_file SET unreferenced_since = now() WHERE {_OURS} AND max_token = 2",
        {"named_file_marked"},
    ),
    "no mark": (
        f"""WITH gone AS (DELETE FROM snapshot WHERE {_OURS} AND snapshot_id = 3)
            UPDATE snapshot_file SET removed_in = 4 WHERE {_OURS} AND added_in = 3""",
        {"unnamed_file_not_marked", "snapshot_gap", "totals_mismatch"},
    ),
    "token": (
        f"UPDATE data_file SET max_token = 9 WHERE {_OURS} AND max_token = 2",
        {"file_ahead_of_watermark", "token_range_mismatch"},
    ),
    "version of a file": (
        f"UPDATE data_file SET schema_version = 2 WHERE {_OURS} AND max_token = 2",
        {"file_schema_unknown"},
    ),
    "version of a table": (f"UPDATE table_def SET schema_version = 2 WHERE {_OURS}", {"schema_versions_broken"}),
    "place of a file": (
        f"UPDATE data_file SET path = 'other/' || path WHERE {_OURS} AND max_token = 2",
        {"misplaced_file", "missing_file"},
    ),
    "pending write": (
        f"UPDATE ingest_event SET state = 'pending', snapshot_id = NULL WHERE {_OURS} AND last_token = 2",
        {"pending_below_watermark", "payload_missing"},
    ),
    "write in another snapshot": (
        f"UPDATE ingest_event SET snapshot_id = 4 WHERE {_OURS} AND last_token = 2",
        {"records_missing"},
    ),
    "claim": (
        f"""UPDATE ingest_claim_batch SET state = 'claimed', ended_at = NULL, lease_until = now() - interval '1 hour'
             WHERE {_OURS} AND epoch = 2""",
        {"claim_of_done_writes", "claim_stale"},
    ),
    "key": (
        f"UPDATE ingest_key SET event_id = -1 WHERE table_id = (SELECT table_id FROM table_def WHERE {_OURS})",
        {"key_without_write"},
    ),
    # What the rows of a file are, against what is recorded of it
    "rows of a file": (
        f"UPDATE data_file SET row_count = 2 WHERE {_OURS} AND max_token = 2",
        {"row_count_mismatch", "content_mismatch", "totals_mismatch", "change_log_mismatch"},
    ),
    "contents of a file": (
        f"UPDATE data_file SET content_hash = 5 WHERE {_OURS} AND max_token = 2",
        {"content_mismatch"},
    ),
    "bounds of a file": (
        f"""UPDATE data_file SET column_stats = jsonb_set(column_stats, '{{2,max}}', '9') WHERE {_OURS}
               AND max_token = 2""",
        {"stats_mismatch"},
    ),
    "tokens of a file": (
        f"UPDATE data_file SET min_token = 1 WHERE {_OURS} AND max_token = 2",
        {"token_range_mismatch"},
    ),
}
