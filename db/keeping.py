"""The statements of the keeper, each a transaction of its own: a look must begin after the lock that it follows.

Advisory locks are the session's. 7214614116, the sleep lock: a keeper that sleeps has it; engine transactions that do
not notify share it (`ops.cabinet_recovery_rings`). 7214614117: whoever has it is the keeper. Neither is waited for:
whoever waits has a snapshot, and holds back the server's vacuum for as long as the engine's longest transaction.
"""

from typing import LiteralString

from db.listing import CAN_BE_TOLD

# Behind a pooler, `may_keep` is false: the session is not ours to hold anything in.
WATCH: LiteralString = """
SELECT
    %(may_keep)s AND pg_try_advisory_lock(7214614117) AS is_keeper,
    COALESCE((SELECT awake_until IS NOT NULL FROM ops.cabinet_recovery_settings), false) AS is_leased
"""

LOCK: LiteralString = "SELECT pg_try_advisory_lock(7214614116) AS is_locked"
UNLOCK: LiteralString = "SELECT pg_advisory_unlock(7214614116)"

# A row comes back where the lease was granted, ended or forgotten; none where somebody else is changing the settings,
# who may take time over it and is not waited for.
LEASE: LiteralString = """
UPDATE ops.cabinet_recovery_settings SET awake_until = clock_timestamp() + make_interval(secs => %(seconds)s)
WHERE only_row = (
    SELECT only_row FROM ops.cabinet_recovery_settings WHERE notify_mode = 'adaptive' FOR UPDATE SKIP LOCKED
)
RETURNING awake_until
"""
END_LEASE: LiteralString = """
UPDATE ops.cabinet_recovery_settings SET awake_until = clock_timestamp()
WHERE only_row = (SELECT only_row FROM ops.cabinet_recovery_settings FOR UPDATE SKIP LOCKED)
RETURNING awake_until
"""
FORGET_LEASE: LiteralString = """
UPDATE ops.cabinet_recovery_settings SET awake_until = NULL
WHERE only_row = (SELECT only_row FROM ops.cabinet_recovery_settings FOR UPDATE SKIP LOCKED)
RETURNING awake_until
"""

# Not v_cabinet_recovery_pending, which counts the events of all leads before it gives one; but it means the same: what
# failed waits for its time, or for a new match. `seen` is at the limit where there may be more.
LOOK: LiteralString = """
SELECT
    count(*) AS seen,
    COALESCE(array_agg(event.event_id) FILTER (WHERE can_be_told AND failure.lead_id IS NULL), '{}') AS event_ids,
    COALESCE(array_agg(event.lead_id) FILTER (WHERE can_be_told AND failure.lead_id IS NULL), '{}') AS lead_ids
FROM (SELECT lead_id, event_id,
"""
LOOK += CAN_BE_TOLD
LOOK += """
AS can_be_told FROM ops.cabinet_recovery_outbox LIMIT %(limit)s) AS event
LEFT JOIN LATERAL (
    SELECT recorded.lead_id
    FROM ops.cabinet_recovery_exception AS recorded
    WHERE recorded.lead_id = event.lead_id
        AND recorded.outcome = 'failed'
        AND recorded.resolved_at IS NULL
        AND (recorded.next_attempt_at <= now()) IS NOT TRUE
        AND recorded.failed_events >= (
            SELECT count(*) FROM ops.cabinet_recovery_outbox AS other WHERE other.lead_id = recorded.lead_id
        )
    LIMIT 1
) AS failure ON true
"""
