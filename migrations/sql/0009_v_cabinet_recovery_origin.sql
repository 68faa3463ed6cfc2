-- v_cabinet_recovery_origin: the origin of each person, whoever's it is.
--
-- Grain:    one row per person with an origin
-- Columns:  keys, tags and times; no notes and no evidence

CREATE OR REPLACE VIEW ops.v_cabinet_recovery_origin AS
SELECT
    person_key,
    origin_tag::text AS origin_tag,
    origin_source_id,
    resolution_status::text AS resolution_status,
    decided_by::text AS decided_by,
    decided_at
FROM canon.identity_origin;
