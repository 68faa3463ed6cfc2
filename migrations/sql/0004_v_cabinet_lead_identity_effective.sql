-- v_cabinet_lead_identity_effective: the person that a cabinet lead has now, and where that comes from.
--
-- Grain:    one row per lead
-- Columns:  the host's, exactly: it runs its own CREATE OR REPLACE, which fails if we append
-- Requires: v_cabinet_recovery_identity

CREATE OR REPLACE VIEW ops.v_cabinet_lead_identity_effective AS
SELECT
    lead_id,
    lead_date,
    person_key_effective,
    CASE
        WHEN person_key_effective IS NULL THEN 'none'
        WHEN link_pk IS NULL THEN 'matching_job'
        ELSE 'existing_link'
    END AS identity_link_source,
    person_key_effective IS NOT NULL AS identity_effective
FROM ops.v_cabinet_recovery_identity;
