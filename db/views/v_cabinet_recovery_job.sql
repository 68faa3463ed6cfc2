-- v_cabinet_recovery_job: how far the matching engine is with each lead.
--
-- Grain:    one row per job of the engine for a cabinet lead
-- Columns:  lead_id, status, person_key, attempts, last_attempt_at, updated_at; never why it failed, which may be
--           anybody's words

CREATE OR REPLACE VIEW ops.v_cabinet_recovery_job AS
SELECT
    source_id AS lead_id,
    status,
    matched_person_key AS person_key,
    attempt_count AS attempts,
    last_attempt_at,
    updated_at
FROM ops.identity_matching_jobs
WHERE source_type = 'cabinet';
