-- v_cabinet_recovery_audit: what was recovered, when, and how long that took.
--
-- Grain:    one row per recovered lead
-- Columns:  the audit's, without names (recovered_by: system, somebody else); lead_date, lead_created_at and
--           window_ends_at of a lead that there still is; matched_at, where it is known: the link's time where the
--           engine wrote the link, and else the job's last update, as long as they still name the person who was
--           recovered; what was touched since the recovery tells nothing of the match
-- Requires: v_cabinet_recovery_identity, the index on first_recovered_at

CREATE OR REPLACE VIEW ops.v_cabinet_recovery_audit AS
SELECT
    audit.lead_id,
    audit.first_recovered_at,
    audit.last_recovered_at,
    audit.recovered_person_key,
    CASE WHEN audit.recovered_by = 'system' THEN 'system' ELSE 'somebody else' END AS recovered_by,
    audit.recovery_method,
    lead.lead_date,
    lead.lead_created_at,
    lead.window_ends_at,
    CASE WHEN matched.at <= audit.first_recovered_at THEN matched.at END AS matched_at
FROM ops.cabinet_lead_recovery_audit AS audit
LEFT JOIN ops.v_cabinet_recovery_identity AS lead ON audit.lead_id = lead.lead_id
LEFT JOIN ops.identity_matching_jobs AS job
    ON
        job.source_type = 'cabinet'
        AND audit.lead_id = job.source_id
        AND job.status = 'matched'
        AND audit.recovered_person_key = job.matched_person_key
LEFT JOIN canon.identity_links AS link
    ON
        link.source_table = 'module_ct_cabinet_leads'
        AND audit.lead_id = link.source_pk
        AND audit.recovered_person_key = link.person_key
CROSS JOIN LATERAL (
    SELECT CASE
        WHEN audit.recovery_method = 'identity_link' AND link.match_rule <> 'cabinet_recovery' THEN link.linked_at
        WHEN audit.recovery_method = 'matching_job' THEN job.updated_at
    END AS at
) AS matched;
