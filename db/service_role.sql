-- cabinet_recovery_service: the rights that the consumer needs, and no others.
--
-- Run as:   the owner of the tables, after `consumer migrate`; again after each later one. It may be repeated.
-- Then:     GRANT cabinet_recovery_service TO the role in DATABASE_URL
-- Not here: TRUNCATE on anything, DELETE on anything but the outbox, any right on names, phones or plates. Views read
--           with their owner's rights; `consumer migrate` and `consumer triggers enable|disable` need the owner.

DO $$
BEGIN
    IF to_regrole('cabinet_recovery_service') IS NULL THEN
        CREATE ROLE cabinet_recovery_service NOLOGIN;
    END IF;
EXCEPTION
    WHEN duplicate_object OR unique_violation THEN NULL; -- somebody else was faster
END
$$;

GRANT USAGE ON SCHEMA canon, ops TO cabinet_recovery_service;

-- The rolling look at all leads pages by their key.
GRANT SELECT (id) ON public.module_ct_cabinet_leads TO cabinet_recovery_service;

GRANT SELECT, INSERT (
    person_key, source_table, source_pk, snapshot_date, match_rule, match_score, confidence_level, evidence, linked_at
), UPDATE (
    person_key, match_rule, match_score, confidence_level, evidence, linked_at
) ON canon.identity_links TO cabinet_recovery_service;

GRANT SELECT, INSERT (
    person_key, origin_tag, origin_source_id, origin_confidence, origin_created_at, evidence, decided_by, decided_at,
    resolution_status, created_at, updated_at
), UPDATE (
    origin_tag, origin_source_id, origin_confidence, origin_created_at, evidence, decided_by, decided_at,
    resolution_status, updated_at
) ON canon.identity_origin TO cabinet_recovery_service;

-- The host's history trigger writes with the rights of whoever updates an origin.
GRANT INSERT ON canon.identity_origin_history TO cabinet_recovery_service;

DO $$
DECLARE
    counted text;
BEGIN
    FOR counted IN
        SELECT pg_get_serial_sequence(owner_table, 'id')
        FROM unnest(ARRAY['canon.identity_links', 'canon.identity_origin_history']) AS owner_table
    LOOP
        IF counted IS NOT NULL THEN
            EXECUTE format('GRANT USAGE ON SEQUENCE %s TO cabinet_recovery_service', counted);
        END IF;
    END LOOP;
END
$$;

GRANT SELECT, INSERT, UPDATE
ON ops.cabinet_lead_recovery_audit, ops.cabinet_recovery_exception TO cabinet_recovery_service;

-- UPDATE, because FOR UPDATE SKIP LOCKED asks for it.
GRANT SELECT, INSERT, UPDATE, DELETE ON ops.cabinet_recovery_outbox TO cabinet_recovery_service;

-- `consumer impact`, `why` and `doctor` tell when a lead was matched, and what its person's origin was before.
GRANT SELECT (
    source_type, source_id, status, matched_person_key, attempt_count, last_attempt_at, updated_at
) ON ops.identity_matching_jobs TO cabinet_recovery_service;
GRANT SELECT (
    person_key, origin_tag_old, origin_source_id_old, resolution_status_old, origin_tag_new, origin_source_id_new,
    resolution_status_new, changed_at
) ON canon.identity_origin_history TO cabinet_recovery_service;
GRANT SELECT (
    business_time_zone, notify_mode
) ON ops.cabinet_recovery_settings TO cabinet_recovery_service;

GRANT SELECT ON
ops.cabinet_recovery_alembic_version,
ops.v_cabinet_recovery_identity,
ops.v_cabinet_recovery_decision,
ops.v_cabinet_recovery_pending,
ops.v_cabinet_lead_identity_effective,
ops.v_cabinet_identity_recovery_impact_14d
TO cabinet_recovery_service;
