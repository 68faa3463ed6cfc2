-- v_cabinet_recovery_calendar: by which days the views count.
--
-- Grain:    one row
-- Columns:  business_time_zone (UTC where there is no settings row), read_at (the transaction's start), today (there)

CREATE OR REPLACE VIEW ops.v_cabinet_recovery_calendar AS
SELECT
    zone.name AS business_time_zone,
    CURRENT_TIMESTAMP AS read_at,
    (CURRENT_TIMESTAMP AT TIME ZONE zone.name)::date AS today
FROM (
    SELECT COALESCE((SELECT business_time_zone FROM ops.cabinet_recovery_settings), 'UTC') AS name
) AS zone;
