-- v_cabinet_recovery_link: the canonical link of each lead.
--
-- Grain:    one row per link of a cabinet lead
-- Columns:  lead_id, person_key, match_rule, match_score, linked_at; previous_person_key, where we moved the link: the
--           evidence of others may hold anything

CREATE OR REPLACE VIEW ops.v_cabinet_recovery_link AS
SELECT
    source_pk AS lead_id,
    person_key,
    match_rule,
    match_score,
    linked_at,
    CASE WHEN match_rule = 'cabinet_recovery' THEN evidence #>> '{previous,person_key}' END AS previous_person_key
FROM canon.identity_links
WHERE source_table = 'module_ct_cabinet_leads';
