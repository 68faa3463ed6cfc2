-- v_cabinet_recovery_event: the events that wait to be worked.
--
-- Grain:    one row per event in the outbox
-- Columns:  lead_id, event_id, source, requested_at

CREATE OR REPLACE VIEW ops.v_cabinet_recovery_event AS
SELECT
    lead_id,
    event_id,
    source,
    requested_at
FROM ops.cabinet_recovery_outbox;
