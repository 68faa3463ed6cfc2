-- Three roles, and the rights of each: what it needs, and no more. docs/security.md says what each right is for.
--
-- cabinet_recovery_owner    owns what is ours, and lends its rights to our views and trigger functions. It cannot log
--                           in; who owns the host's tables, and so migrates, is made a member
-- cabinet_recovery_service  what the consumer works with: GRANT it to the role in DATABASE_URL
-- cabinet_recovery_reader   the views: keys, dates and outcomes, no personal data
--
-- Run as: the owner of the host's tables, with CREATEROLE where the roles are missing, or a superuser; after
--         `consumer migrate`, and again after each later one. It is one transaction, may be repeated, and takes back
--         what these roles had before on the objects that it names.
-- Names:  `consumer grants` prints this with others; a name within quotes is the literal.

BEGIN;

-- Whoever waits for a table makes all who come later wait as well: rather fail, and be run again.
SET LOCAL lock_timeout = '500ms';

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'cabinet_recovery_owner') THEN
        CREATE ROLE cabinet_recovery_owner NOLOGIN;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'cabinet_recovery_service') THEN
        CREATE ROLE cabinet_recovery_service NOLOGIN;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'cabinet_recovery_reader') THEN
        CREATE ROLE cabinet_recovery_reader NOLOGIN;
    END IF;
    IF EXISTS (
        SELECT FROM pg_roles WHERE rolname = 'cabinet_recovery_owner' AND (rolcanlogin OR rolsuper OR rolbypassrls)
    ) THEN
        RAISE EXCEPTION 'the owner must be a role that can neither log in nor pass by what others may not do';
    END IF;
    IF has_schema_privilege('public', 'public', 'CREATE') THEN
        RAISE WARNING 'everybody may create objects in schema public, and so shadow functions and operators for '
            'everybody else: REVOKE CREATE ON SCHEMA public FROM PUBLIC';
    END IF;
END
$$;

-- What is ours becomes the owner's. The audit and the two views that the host knows by name stay whose they are.
DO $$
DECLARE
    holder regrole;
    ours record;
BEGIN
    FOR holder IN
        SELECT DISTINCT relation.relowner
        FROM pg_class AS relation
        JOIN pg_roles AS owner ON owner.oid = relation.relowner
        WHERE NOT owner.rolsuper
            AND owner.rolname <> 'cabinet_recovery_owner'
            AND relation.oid IN (
                'public.module_ct_cabinet_leads'::regclass, 'canon.identity_links'::regclass,
                'ops.identity_matching_jobs'::regclass, 'ops.v_cabinet_lead_identity_effective'::regclass,
                'ops.v_cabinet_identity_recovery_impact_14d'::regclass
            )
            AND NOT pg_has_role(owner.oid, (SELECT oid FROM pg_roles WHERE rolname = 'cabinet_recovery_owner'), 'USAGE')
    LOOP
        EXECUTE format('GRANT %I TO %s', 'cabinet_recovery_owner', holder);
    END LOOP;

    -- To be given an object one must be able to make it; the right is taken back below.
    GRANT USAGE, CREATE ON SCHEMA ops TO cabinet_recovery_owner;
    FOR ours IN
        SELECT
            CASE WHEN relkind = 'v' THEN 'VIEW' ELSE 'TABLE' END AS kind,
            oid::regclass::text AS name
        FROM pg_class
        WHERE relnamespace = 'ops'::regnamespace
            AND relname ~ '^(v_)?cabinet_recovery_'
            AND relname <> 'cabinet_recovery_claim' -- the host's, in a database that had no claims
            AND relkind IN ('r', 'v')
        UNION ALL
        SELECT 'FUNCTION', oid::regprocedure::text
        FROM pg_proc
        WHERE pronamespace = 'ops'::regnamespace AND proname ~ '^cabinet_recovery_'
    LOOP
        EXECUTE format('ALTER %s %s OWNER TO %I', ours.kind, ours.name, 'cabinet_recovery_owner');
        EXECUTE format('REVOKE ALL ON %s %s FROM PUBLIC', replace(ours.kind, 'VIEW', 'TABLE'), ours.name);
    END LOOP;
    REVOKE CREATE ON SCHEMA ops FROM cabinet_recovery_owner;
END
$$;

REVOKE ALL ON
public.module_ct_cabinet_leads,
canon.identity_registry,
canon.identity_links,
canon.identity_origin,
canon.identity_origin_history,
ops.identity_matching_jobs
FROM cabinet_recovery_owner, cabinet_recovery_service, cabinet_recovery_reader;

REVOKE ALL ON
ops.cabinet_lead_recovery_audit,
ops.cabinet_recovery_alembic_version,
ops.cabinet_recovery_exception,
ops.cabinet_recovery_outbox,
ops.cabinet_recovery_settings,
ops.v_cabinet_recovery_identity,
ops.v_cabinet_recovery_decision,
ops.v_cabinet_recovery_pending,
ops.v_cabinet_recovery_audit,
ops.v_cabinet_recovery_calendar,
ops.v_cabinet_recovery_event,
ops.v_cabinet_recovery_exception,
ops.v_cabinet_recovery_job,
ops.v_cabinet_recovery_link,
ops.v_cabinet_recovery_origin,
ops.v_cabinet_recovery_origin_history,
ops.v_cabinet_lead_identity_effective,
ops.v_cabinet_identity_recovery_impact_14d
FROM cabinet_recovery_service, cabinet_recovery_reader;

GRANT USAGE ON SCHEMA public, canon, ops TO cabinet_recovery_owner;
GRANT USAGE ON SCHEMA public, canon, ops TO cabinet_recovery_service;
GRANT USAGE ON SCHEMA ops TO cabinet_recovery_reader;

-- What the views read. The versions of rows (xmin) are how a decision is checked again by its write.
GRANT SELECT (id, external_id, lead_created_at) ON public.module_ct_cabinet_leads TO cabinet_recovery_owner;
GRANT SELECT (person_key) ON canon.identity_registry TO cabinet_recovery_owner;
GRANT SELECT (
    id, person_key, source_table, source_pk, match_rule, match_score, evidence, linked_at, xmin
) ON canon.identity_links TO cabinet_recovery_owner;
GRANT SELECT (
    person_key, origin_tag, origin_source_id, resolution_status, decided_by, decided_at, xmin
) ON canon.identity_origin TO cabinet_recovery_owner;
GRANT SELECT (
    id, source_type, source_id, status, matched_person_key, attempt_count, last_attempt_at, updated_at
) ON ops.identity_matching_jobs TO cabinet_recovery_owner;
GRANT SELECT (
    person_key, origin_tag_old, origin_source_id_old, resolution_status_old, origin_tag_new, origin_source_id_new,
    resolution_status_new, changed_at
) ON canon.identity_origin_history TO cabinet_recovery_owner;
-- The audit may be the host's.
GRANT SELECT ON ops.cabinet_lead_recovery_audit TO cabinet_recovery_owner;

-- An ON CONFLICT reads what it writes: PostgreSQL asks for SELECT wherever EXCLUDED is named.

-- The rolling look at all leads pages by their key.
GRANT SELECT (id) ON public.module_ct_cabinet_leads TO cabinet_recovery_service;

GRANT SELECT (
    person_key, source_table, source_pk, match_rule, match_score, confidence_level, evidence, linked_at, xmin
), INSERT (
    person_key, source_table, source_pk, snapshot_date, match_rule, match_score, confidence_level, evidence, linked_at
), UPDATE (
    person_key, match_rule, match_score, confidence_level, evidence, linked_at
) ON canon.identity_links TO cabinet_recovery_service;

GRANT SELECT (
    person_key, origin_tag, origin_source_id, origin_confidence, origin_created_at, evidence, decided_by, decided_at,
    resolution_status, updated_at, xmin
), INSERT (
    person_key, origin_tag, origin_source_id, origin_confidence, origin_created_at, evidence, decided_by, decided_at,
    resolution_status, created_at, updated_at
), UPDATE (
    origin_tag, origin_source_id, origin_confidence, origin_created_at, evidence, decided_by, decided_at,
    resolution_status, updated_at
) ON canon.identity_origin TO cabinet_recovery_service;

-- The host's history trigger writes, with the rights of whoever updates an origin, whatever columns the host likes.
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
            EXECUTE format('GRANT USAGE ON SEQUENCE %s TO %I', counted, 'cabinet_recovery_service');
        END IF;
    END LOOP;
END
$$;

-- Not UPDATE on first_recovered_at: it is set once.
GRANT SELECT (
    lead_id, last_recovered_at, recovered_person_key, recovered_by, recovery_method, updated_at, xmax, xmin
), INSERT (
    lead_id, first_recovered_at, last_recovered_at, recovered_person_key, recovered_by, recovery_method, updated_at
), UPDATE (
    last_recovered_at, recovered_person_key, recovered_by, recovery_method, updated_at
) ON ops.cabinet_lead_recovery_audit TO cabinet_recovery_service;

GRANT SELECT (
    lead_id, outcome, sqlstate, message, attempts, failed_events, match_waits, next_attempt_at, parked_at,
    first_seen_at, last_seen_at, resolved_at, xmin
), INSERT (
    lead_id, outcome, sqlstate, message, attempts, failed_events, match_waits
), UPDATE (
    outcome, sqlstate, message, attempts, failed_events, match_waits, next_attempt_at, parked_at, first_seen_at,
    last_seen_at, resolved_at
) ON ops.cabinet_recovery_exception TO cabinet_recovery_service;

-- UPDATE, because FOR UPDATE SKIP LOCKED asks for it on some column: of this one, nobody can set a value.
GRANT SELECT (
    lead_id, event_id, source
), INSERT (
    lead_id, source
), UPDATE (
    event_id
), DELETE ON ops.cabinet_recovery_outbox TO cabinet_recovery_service;

-- In mode 'adaptive' the daemon tells the engine until when it is awake; it may change nothing else there.
GRANT SELECT (
    only_row, business_time_zone, notify_mode, awake_until
), UPDATE (
    awake_until
) ON ops.cabinet_recovery_settings TO cabinet_recovery_service;

GRANT SELECT (version_num) ON ops.cabinet_recovery_alembic_version TO cabinet_recovery_service;

GRANT SELECT ON
ops.v_cabinet_recovery_identity,
ops.v_cabinet_recovery_decision,
ops.v_cabinet_recovery_pending,
ops.v_cabinet_recovery_audit,
ops.v_cabinet_recovery_calendar,
ops.v_cabinet_recovery_event,
ops.v_cabinet_recovery_exception,
ops.v_cabinet_recovery_job,
ops.v_cabinet_recovery_link,
ops.v_cabinet_recovery_origin,
ops.v_cabinet_recovery_origin_history,
ops.v_cabinet_identity_recovery_impact_14d
TO cabinet_recovery_service;

GRANT SELECT ON
ops.v_cabinet_recovery_decision,
ops.v_cabinet_recovery_pending,
ops.v_cabinet_recovery_audit,
ops.v_cabinet_recovery_calendar,
ops.v_cabinet_recovery_event,
ops.v_cabinet_recovery_exception,
ops.v_cabinet_recovery_job,
ops.v_cabinet_recovery_link,
ops.v_cabinet_recovery_origin,
ops.v_cabinet_recovery_origin_history,
ops.v_cabinet_lead_identity_effective,
ops.v_cabinet_identity_recovery_impact_14d
TO cabinet_recovery_reader;

COMMIT;
