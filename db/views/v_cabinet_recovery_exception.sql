-- v_cabinet_recovery_exception: what could not be recovered, and why.
--
-- Grain:    one row per lead that ever could not be recovered; resolved_at is NULL while it cannot
-- Columns:  the table's, without what is the handler's alone; message is NULL for data errors, whose words may quote
--           what they are about

CREATE OR REPLACE VIEW ops.v_cabinet_recovery_exception AS
SELECT
    lead_id,
    outcome,
    sqlstate,
    CASE WHEN outcome <> 'failed' THEN message END AS message,
    attempts,
    next_attempt_at,
    parked_at,
    first_seen_at,
    last_seen_at,
    resolved_at
FROM ops.cabinet_recovery_exception;
