-- v_cabinet_recovery_origin_history: what the origins of persons were before.
--
-- Grain:    one row per change of an origin
-- Columns:  keys, tags and times; neither who changed it nor why: the one may be a name, the other anything

CREATE OR REPLACE VIEW ops.v_cabinet_recovery_origin_history AS
SELECT
    person_key,
    changed_at,
    origin_tag_old::text AS origin_tag_old,
    origin_source_id_old,
    resolution_status_old::text AS resolution_status_old,
    origin_tag_new::text AS origin_tag_new,
    origin_source_id_new,
    resolution_status_new::text AS resolution_status_new
FROM canon.identity_origin_history;
