"""The statements for a lead whose data are at fault: it is counted against, and tried again later, or parked."""

from typing import LiteralString

COUNT_EVENTS: LiteralString = """
SELECT count(*) AS events FROM ops.cabinet_recovery_outbox WHERE lead_id = %(lead_id)s
"""

# An event is made where the failed transaction took its own away with it. What counts as failed are the events that
# were known before the attempt: one that came since is a new match, with which the lead starts over, as it does where
# an operator asks. They are locked first: another handler may be about to settle them, and a failure without an event
# would be looked at by no sweep.
RECORD_FAILURE: LiteralString = """
WITH pending AS (
    SELECT count(*) AS events
    FROM (SELECT FROM ops.cabinet_recovery_outbox WHERE lead_id = %(lead_id)s FOR UPDATE) AS locked
),
kept AS (
    INSERT INTO ops.cabinet_recovery_outbox (lead_id, source)
    SELECT %(lead_id)s, 'reconcile' FROM pending WHERE events = 0
)
INSERT INTO ops.cabinet_recovery_exception AS exception (
    lead_id, outcome, sqlstate, message, attempts, failed_events
)
SELECT
    %(lead_id)s, 'failed', %(sqlstate)s, %(message)s, 1, %(known_events)s + CASE WHEN events = 0 THEN 1 ELSE 0 END
FROM pending
ON CONFLICT (lead_id) DO UPDATE SET
    outcome = 'failed',
    sqlstate = EXCLUDED.sqlstate,
    message = EXCLUDED.message,
    failed_events = EXCLUDED.failed_events,
    attempts = CASE
        WHEN NOT %(starts_over)s
            AND exception.outcome = 'failed'
            AND exception.resolved_at IS NULL
            AND exception.failed_events >= EXCLUDED.failed_events
            THEN exception.attempts + 1
        ELSE 1
    END,
    first_seen_at = CASE WHEN exception.resolved_at IS NULL THEN exception.first_seen_at ELSE now() END,
    last_seen_at = now(),
    resolved_at = NULL
"""

SCHEDULE_RETRY: LiteralString = """
UPDATE ops.cabinet_recovery_exception
SET
    next_attempt_at = now() + LEAST(interval '1 second' * 2 ^ LEAST(attempts - 1, 20), interval '1 hour'),
    parked_at = CASE WHEN attempts >= %(max_attempts)s THEN now() END
WHERE lead_id = %(lead_id)s
RETURNING attempts, parked_at IS NOT NULL AS parked,
    EXTRACT(EPOCH FROM next_attempt_at - now())::float8 AS retry_seconds
"""
