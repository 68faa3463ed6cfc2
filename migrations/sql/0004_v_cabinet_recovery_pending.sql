-- v_cabinet_recovery_pending: the leads that have events in the outbox, and whether they are to be worked now.
--
-- Grain:    one row per lead with at least one pending event
-- Columns:  lead_id, events (how many), requested_at (of the oldest), parked_at, next_attempt_at, is_due: not held
--           back by an earlier failure, or matched anew since it

CREATE OR REPLACE VIEW ops.v_cabinet_recovery_pending AS
SELECT
    pending.lead_id,
    pending.events,
    pending.requested_at,
    failure.parked_at,
    failure.next_attempt_at,
    (
        failure.lead_id IS NULL
        OR pending.events > failure.failed_events
        OR (failure.parked_at IS NULL AND failure.next_attempt_at <= now())
    ) IS TRUE AS is_due
FROM (
    SELECT
        lead_id,
        count(*) AS events,
        min(requested_at) AS requested_at
    FROM ops.cabinet_recovery_outbox
    GROUP BY lead_id
) AS pending
LEFT JOIN
    -- LIMIT 1 keeps the planner from scanning a table that it believes to be empty.
    LATERAL (
        SELECT
            recorded.lead_id,
            recorded.failed_events,
            recorded.parked_at,
            recorded.next_attempt_at
        FROM ops.cabinet_recovery_exception AS recorded
        WHERE recorded.lead_id = pending.lead_id AND recorded.outcome = 'failed' AND recorded.resolved_at IS NULL
        LIMIT 1
    ) AS failure
    ON TRUE;
