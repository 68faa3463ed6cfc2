"""The survey: how the queue stands, for those who watch the service. One row, found by keys, within bounds."""

from typing import LiteralString

# The figures must never cost more than they are worth: whoever would wait, or scan, gives up instead.
SET_UP_SURVEY: LiteralString = """
SELECT
    set_config('statement_timeout', %(statement_timeout_ms)s::text, true),
    set_config('lock_timeout', '100ms', true),
    set_config('transaction_read_only', 'on', true),
    set_config('enable_seqscan', 'off', true),
    set_config('enable_hashagg', 'off', true),
    set_config('enable_hashjoin', 'off', true),
    set_config('enable_mergejoin', 'off', true),
    set_config('jit', 'off', true)
"""

# Counts stop at 1,000, of pending leads in the order of their ids, so that the key's order ends the look: how many
# more there are does not matter. windows_closing looks at what was matched and is ours to recover: what has no event
# waits in the exception table, where the order, of the index of what is undone, keeps the planner from looking at all
# leads that are skipped, even in a plan that was made while there was none. In it the parked, who have all failed,
# come first. The left joins of the identity view fall away, for nothing of theirs is asked for.
SURVEY: LiteralString = """
WITH pending AS MATERIALIZED (
    SELECT lead_id, requested_at
    FROM ops.v_cabinet_recovery_pending
    WHERE is_due
    ORDER BY lead_id
    LIMIT 1000
),
unresolved AS MATERIALIZED (
    SELECT lead_id, parked_at
    FROM ops.cabinet_recovery_exception
    WHERE resolved_at IS NULL AND outcome IN ('failed', 'unknown_person')
    ORDER BY parked_at, lead_id
    LIMIT 1000
),
closing AS (
    SELECT lead.lead_id
    FROM ops.v_cabinet_recovery_identity AS lead
    WHERE lead.lead_id = ANY(ARRAY(SELECT lead_id FROM pending UNION SELECT lead_id FROM unresolved))
        AND lead.window_ends_at > now()
        AND lead.window_ends_at <= now() + interval '48 hours'
)
SELECT
    (SELECT count(*) FROM pending)::float8 AS pending_leads,
    (SELECT COALESCE(EXTRACT(EPOCH FROM clock_timestamp() - min(requested_at)), 0) FROM pending)::float8
        AS oldest_pending_seconds,
    (SELECT count(parked_at) FROM unresolved)::float8 AS parked_leads,
    (SELECT count(*) FROM closing)::float8 AS windows_closing_leads,
    (
        SELECT count(*) = 4
        FROM pg_trigger
        WHERE tgenabled IN ('O', 'A') AND (
            (tgrelid = to_regclass('canon.identity_links')
                AND tgname IN ('cabinet_recovery_link_inserted', 'cabinet_recovery_link_updated'))
            OR (tgrelid = to_regclass('ops.identity_matching_jobs')
                AND tgname IN ('cabinet_recovery_job_inserted', 'cabinet_recovery_job_updated'))
        )
    )::integer::float8 AS triggers_enabled,
    pg_notification_queue_usage() AS notify_queue_ratio
"""
