-- v_cabinet_identity_recovery_impact_14d: what recovery did for collection within each lead's 14 days.
--
-- Grain:    one row per lead
-- Columns:  the host's, exactly: it runs its own CREATE OR REPLACE, which fails if we append
-- Requires: v_cabinet_recovery_identity; ops.v_payment_calculation, which is read and never recomputed

CREATE OR REPLACE VIEW ops.v_cabinet_identity_recovery_impact_14d AS
SELECT
    identity.lead_id,
    identity.lead_date,
    identity.lead_date + 14 AS window_end_14d,
    identity.person_key_effective,
    identity.person_key_effective IS NOT NULL AS identity_effective,
    origin.person_key IS NOT NULL AS origin_ok,
    claim.person_key IS NOT NULL AS has_claim,
    CASE
        WHEN identity.person_key_effective IS NULL THEN 'unidentified'
        WHEN origin.person_key IS NULL THEN 'identified_no_origin'
        WHEN claim.person_key IS NULL THEN 'identified_origin_no_claim'
        ELSE 'identified_origin_claim'
    END AS claim_status_bucket,
    audit.first_recovered_at AS recovered_at,
    CASE
        WHEN audit.first_recovered_at IS NOT NULL
            THEN COALESCE(audit.first_recovered_at <= identity.window_ends_at, FALSE)
    END AS recovered_within_14d,
    CASE
        WHEN identity.person_key_effective IS NULL THEN 'still_unidentified'
        WHEN audit.first_recovered_at <= identity.window_ends_at AND claim.person_key IS NULL
            THEN 'recovered_within_14d_but_no_claim'
        WHEN audit.first_recovered_at <= identity.window_ends_at THEN 'recovered_within_14d_and_claim'
        WHEN audit.first_recovered_at IS NOT NULL THEN 'recovered_late'
        WHEN origin.person_key IS NULL THEN 'identified_but_missing_origin'
        WHEN claim.person_key IS NULL THEN 'identified_origin_no_claim'
        ELSE 'identified_origin_claim'
    END AS impact_bucket
FROM ops.v_cabinet_recovery_identity AS identity
LEFT JOIN ops.cabinet_lead_recovery_audit AS audit ON identity.lead_id = audit.lead_id
LEFT JOIN canon.identity_origin AS origin
    ON
        identity.person_key_effective = origin.person_key
        AND origin.origin_tag::text = 'cabinet_lead'
        AND identity.lead_id = origin.origin_source_id
LEFT JOIN (
    SELECT DISTINCT
        person_key,
        lead_date
    FROM ops.v_payment_calculation
    WHERE
        origin_tag::text = 'cabinet'
        AND milestone_achieved
        AND milestone_trips IN (1, 5, 25)
        AND driver_id IS NOT NULL
) AS claim ON identity.person_key_effective = claim.person_key AND identity.lead_date = claim.lead_date;
