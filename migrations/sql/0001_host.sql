-- The host's objects, for a database that has none (demo, tests, a first trial).
--
-- Each stands behind its own check, so in the host's database this creates nothing, and it never alters what it
-- finds. What it creates is the host's from then on: no downgrade removes it.

DO $$
DECLARE
    enum record;
BEGIN
    -- Not IF NOT EXISTS, which asks for the right to create a schema even where there is nothing to create.
    IF to_regnamespace('canon') IS NULL THEN
        CREATE SCHEMA canon;
    END IF;

    -- By name in any schema: the host may keep its types elsewhere than we would.
    FOR enum IN
        SELECT name, labels
        FROM (VALUES
            ('confidencelevel', ARRAY['HIGH', 'MEDIUM', 'LOW']),
            ('origin_tag', ARRAY['cabinet_lead', 'scout_registration', 'migration', 'legacy_external']),
            ('decided_by_type', ARRAY['system', 'manual']),
            ('origin_resolution_status',
                ARRAY['pending_review', 'resolved_auto', 'resolved_manual', 'marked_legacy', 'discarded'])
        ) AS wanted (name, labels)
        WHERE NOT EXISTS (SELECT FROM pg_type WHERE typname = wanted.name)
    LOOP
        EXECUTE format(
            'CREATE TYPE public.%I AS ENUM (%s)',
            enum.name, (SELECT string_agg(quote_literal(label), ', ') FROM unnest(enum.labels) AS label)
        );
    END LOOP;

    IF to_regclass('public.module_ct_cabinet_leads') IS NULL THEN
        CREATE TABLE public.module_ct_cabinet_leads (
            id serial PRIMARY KEY,
            external_id varchar,
            lead_created_at timestamp,
            first_name varchar,
            middle_name varchar,
            last_name varchar,
            park_phone varchar,
            asset_plate_number varchar
        );
        CREATE UNIQUE INDEX ix_module_ct_cabinet_leads_external_id
        ON public.module_ct_cabinet_leads (external_id) WHERE external_id IS NOT NULL;
    END IF;

    IF to_regclass('canon.identity_registry') IS NULL THEN
        CREATE TABLE canon.identity_registry (
            person_key uuid PRIMARY KEY,
            confidence_level confidencelevel NOT NULL,
            created_at timestamptz NOT NULL DEFAULT now(),
            updated_at timestamptz NOT NULL DEFAULT now(),
            primary_phone varchar,
            primary_document varchar,
            primary_license varchar,
            primary_full_name varchar,
            flags jsonb
        );
    END IF;

    IF to_regclass('canon.identity_links') IS NULL THEN
        CREATE TABLE canon.identity_links (
            id serial PRIMARY KEY,
            person_key uuid NOT NULL REFERENCES canon.identity_registry (person_key),
            source_table varchar NOT NULL,
            source_pk varchar NOT NULL,
            snapshot_date timestamptz NOT NULL,
            match_rule varchar NOT NULL,
            match_score integer NOT NULL,
            confidence_level confidencelevel NOT NULL,
            evidence jsonb,
            linked_at timestamptz NOT NULL DEFAULT now(),
            UNIQUE (source_table, source_pk)
        );
        CREATE INDEX ix_identity_links_person_key ON canon.identity_links (person_key);
    END IF;

    IF to_regclass('canon.identity_origin_history') IS NULL THEN
        CREATE TABLE canon.identity_origin_history (
            id bigserial PRIMARY KEY,
            person_key uuid NOT NULL,
            origin_tag_old varchar,
            origin_tag_new varchar,
            origin_source_id_old varchar,
            origin_source_id_new varchar,
            origin_confidence_old numeric(5, 2),
            origin_confidence_new numeric(5, 2),
            resolution_status_old varchar,
            resolution_status_new varchar,
            ruleset_version_old varchar,
            ruleset_version_new varchar,
            changed_by varchar,
            change_reason text,
            changed_at timestamptz NOT NULL DEFAULT now()
        );
        CREATE INDEX ix_identity_origin_history_person_key ON canon.identity_origin_history (person_key);
    END IF;

    IF to_regclass('canon.identity_origin') IS NULL THEN
        CREATE TABLE canon.identity_origin (
            person_key uuid PRIMARY KEY REFERENCES canon.identity_registry (person_key) ON DELETE CASCADE,
            origin_tag origin_tag NOT NULL,
            origin_source_id varchar NOT NULL,
            origin_confidence numeric(5, 2) NOT NULL,
            origin_created_at timestamptz NOT NULL,
            ruleset_version varchar NOT NULL DEFAULT 'origin_rules_v1',
            evidence jsonb,
            decided_by decided_by_type NOT NULL DEFAULT 'system',
            decided_at timestamptz NOT NULL DEFAULT now(),
            resolution_status origin_resolution_status NOT NULL DEFAULT 'pending_review',
            notes text,
            created_at timestamptz NOT NULL DEFAULT now(),
            updated_at timestamptz NOT NULL DEFAULT now()
        );
        CREATE INDEX ix_identity_origin_tag ON canon.identity_origin (origin_tag);
        CREATE INDEX ix_identity_origin_source_id ON canon.identity_origin (origin_source_id);
        CREATE INDEX ix_identity_origin_status ON canon.identity_origin (resolution_status);
        CREATE INDEX ix_identity_origin_ruleset ON canon.identity_origin (ruleset_version);

        CREATE FUNCTION canon.identity_origin_history() RETURNS trigger LANGUAGE plpgsql AS $function$
        BEGIN
            INSERT INTO canon.identity_origin_history (
                person_key, origin_tag_old, origin_tag_new, origin_source_id_old, origin_source_id_new,
                origin_confidence_old, origin_confidence_new, resolution_status_old, resolution_status_new,
                ruleset_version_old, ruleset_version_new, changed_by
            ) VALUES (
                new.person_key, old.origin_tag, new.origin_tag, old.origin_source_id, new.origin_source_id,
                old.origin_confidence, new.origin_confidence, old.resolution_status, new.resolution_status,
                old.ruleset_version, new.ruleset_version, new.decided_by
            );
            RETURN NULL;
        END
        $function$;
        CREATE TRIGGER trg_identity_origin_history AFTER UPDATE ON canon.identity_origin
        FOR EACH ROW EXECUTE FUNCTION canon.identity_origin_history();
    END IF;

    IF to_regclass('ops.identity_matching_jobs') IS NULL THEN
        CREATE TABLE ops.identity_matching_jobs (
            id bigserial PRIMARY KEY,
            source_type text NOT NULL,
            source_id text NOT NULL,
            status text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'matched', 'failed')),
            matched_person_key uuid REFERENCES canon.identity_registry (person_key),
            attempt_count integer NOT NULL DEFAULT 0,
            last_attempt_at timestamptz,
            fail_reason text,
            created_at timestamptz NOT NULL DEFAULT now(),
            updated_at timestamptz NOT NULL DEFAULT now(),
            UNIQUE (source_type, source_id)
        );
        CREATE INDEX ix_identity_matching_jobs_status ON ops.identity_matching_jobs (status);
    END IF;

    IF to_regclass('ops.v_payment_calculation') IS NULL THEN
        CREATE TABLE IF NOT EXISTS ops.cabinet_recovery_claim (
            person_key uuid NOT NULL,
            lead_date date NOT NULL,
            origin_tag varchar NOT NULL DEFAULT 'cabinet',
            milestone_trips integer NOT NULL,
            milestone_achieved boolean NOT NULL DEFAULT false,
            driver_id varchar,
            PRIMARY KEY (person_key, lead_date, origin_tag, milestone_trips)
        );
        CREATE VIEW ops.v_payment_calculation AS
        SELECT person_key, lead_date, origin_tag, milestone_trips, milestone_achieved, driver_id
        FROM ops.cabinet_recovery_claim;
    END IF;
END
$$;
