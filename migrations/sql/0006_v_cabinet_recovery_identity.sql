-- v_cabinet_recovery_identity: who a cabinet lead is, by its link and by its matched job.
--
-- Grain:    one row per lead_id; where two leads claim one, the lead whose external_id it is
-- Columns:  lead_pk, lead_id, lead_created_at and window_ends_at (instants, by the business zone), lead_date,
--           the link, the matched job, and person_key_effective: the link's person, where there is no link the
--           job's, and only if in the registry
-- Requires: the index on COALESCE(external_id, id::text)

CREATE OR REPLACE VIEW ops.v_cabinet_recovery_identity AS
SELECT
    lead.id AS lead_pk,
    COALESCE(lead.external_id, lead.id::text) AS lead_id,
    lead.lead_created_at AT TIME ZONE zone.name AS lead_created_at,
    lead.lead_created_at::date AS lead_date,
    -- Clamped, because one absurd date must not make every query over the window fail.
    CASE
        WHEN lead.lead_created_at IS NOT NULL
            THEN
                (
                    LEAST(GREATEST(lead.lead_created_at, timestamp '0001-01-02'), timestamp '9999-01-01')::date + 14
                )::timestamp AT TIME ZONE zone.name
    END AS window_ends_at,
    link.id AS link_pk,
    link.person_key AS link_person_key,
    link.linked_at,
    link.xmin::text AS link_version,
    link_person.person_key AS link_person_known,
    job.id AS job_id,
    job.matched_person_key AS job_person_key,
    job_person.person_key AS job_person_known,
    CASE WHEN link.id IS NULL THEN job_person.person_key ELSE link_person.person_key END AS person_key_effective
FROM public.module_ct_cabinet_leads AS lead
CROSS JOIN
    (SELECT COALESCE((SELECT business_time_zone FROM ops.cabinet_recovery_settings), 'UTC') AS name) AS zone
LEFT JOIN canon.identity_links AS link
    ON
        link.source_table = 'module_ct_cabinet_leads'
        AND link.source_pk = COALESCE(lead.external_id, lead.id::text)
LEFT JOIN canon.identity_registry AS link_person ON link.person_key = link_person.person_key
LEFT JOIN ops.identity_matching_jobs AS job
    ON
        job.source_type = 'cabinet'
        AND job.source_id = COALESCE(lead.external_id, lead.id::text)
        AND job.status = 'matched'
        AND job.matched_person_key IS NOT NULL
LEFT JOIN canon.identity_registry AS job_person ON job.matched_person_key = job_person.person_key
WHERE
    lead.external_id IS NOT NULL
    -- LIMIT 1, not EXISTS: that may be planned as a hash of all leads.
    OR (
        SELECT owner.id FROM public.module_ct_cabinet_leads AS owner
        WHERE owner.external_id = lead.id::text
        LIMIT 1
    ) IS NULL;
