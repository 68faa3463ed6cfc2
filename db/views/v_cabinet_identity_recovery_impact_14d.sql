-- v_cabinet_identity_recovery_impact_14d: what recovery did for collection within each lead's 14 days.
--
-- Grain:    one row per lead
-- Columns:  the host's, exactly: it runs its own CREATE OR REPLACE, which fails if we append
-- Requires: ops.v_payment_calculation, which is read and never recomputed
--
-- The identity is v_cabinet_recovery_identity's, in joins alone: that one is for look-ups by key, and its subquery for
-- each lead would keep a count of all leads on one core. A test holds the two equal.

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
FROM (
    SELECT
        COALESCE(lead.external_id, lead.id::text) AS lead_id,
        lead.lead_created_at::date AS lead_date,
        CASE
            WHEN lead.lead_created_at IS NOT NULL
                THEN
                    (
                        LEAST(GREATEST(lead.lead_created_at, timestamp '0001-01-02'), timestamp '9999-01-01')::date + 14
                    )::timestamp AT TIME ZONE zone.name
        END AS window_ends_at,
        person.person_key AS person_key_effective
    FROM public.module_ct_cabinet_leads AS lead
    CROSS JOIN
        (SELECT COALESCE((SELECT business_time_zone FROM ops.cabinet_recovery_settings), 'UTC') AS name) AS zone
    LEFT JOIN canon.identity_links AS link
        ON
            link.source_table = 'module_ct_cabinet_leads'
            AND link.source_pk = COALESCE(lead.external_id, lead.id::text)
    LEFT JOIN ops.identity_matching_jobs AS job
        ON
            job.source_type = 'cabinet'
            AND job.source_id = COALESCE(lead.external_id, lead.id::text)
            AND job.status = 'matched'
            AND job.matched_person_key IS NOT NULL
    LEFT JOIN canon.identity_registry AS person
        ON COALESCE(link.person_key, job.matched_person_key) = person.person_key
    LEFT JOIN (
        SELECT
            nameless.id,
            TRUE AS is_taken
        FROM public.module_ct_cabinet_leads AS nameless
        INNER JOIN public.module_ct_cabinet_leads AS owner ON nameless.id::text = owner.external_id
        WHERE nameless.external_id IS NULL
    ) AS number ON lead.id = number.id
    -- Not number.id IS NULL: that is an anti-join, which may be turned round, and then one process alone reads out all.
    WHERE number.is_taken IS NOT TRUE
) AS identity
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
