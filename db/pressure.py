"""How busy the server is, for those who should step back."""

from typing import LiteralString

# replay_lag is NULL for a standby that has caught up and for one that was idle when its replay stopped; the two are
# told apart by what it has not replayed yet. Our own sessions are not what we wait for.
READ_PRESSURE: LiteralString = """
SELECT
    pg_has_role(current_user, 'pg_read_all_stats', 'USAGE') AS can_see,
    (
        SELECT COALESCE(max(CASE
            WHEN replay_lag IS NOT NULL THEN EXTRACT(EPOCH FROM replay_lag)
            WHEN pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn) > %(most_behind_bytes)s THEN 'infinity'
            ELSE 0
        END), 0)
        FROM pg_stat_replication
        WHERE state <> 'backup'
    )::float8 AS replication_lag_seconds,
    (
        SELECT count(*)
        FROM pg_stat_activity
        WHERE state = 'active' AND backend_type = 'client backend' AND pid <> pg_backend_pid()
            AND application_name IS DISTINCT FROM %(our_name)s::text
    ) AS active_sessions
"""
