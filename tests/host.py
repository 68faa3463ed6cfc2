"""A database like the host's, and what a dump says of it."""

import re
import subprocess

import psycopg

from db.embedded import runnable_binaries

VERSION_TABLE = {
    "TABLE ops cabinet_recovery_alembic_version",
    "TABLE DATA ops cabinet_recovery_alembic_version",
    "CONSTRAINT ops cabinet_recovery_alembic_version cabinet_recovery_alembic_version_pkc",
}
EFFECTIVE, IMPACT = "VIEW ops v_cabinet_lead_identity_effective", "VIEW ops v_cabinet_identity_recovery_impact_14d"

# Like the host's, and in nothing that we do not need as our baseline would make it.
HOST = """
CREATE SCHEMA canon;
CREATE SCHEMA ops;
CREATE TABLE public.alembic_version (version_num varchar(32) CONSTRAINT alembic_version_pkc PRIMARY KEY);
INSERT INTO public.alembic_version VALUES ('f3a9c1d27b60');

CREATE TYPE public.confidencelevel AS ENUM ('HIGH', 'MEDIUM', 'LOW');
CREATE TYPE canon.origin_tag AS ENUM ('cabinet_lead', 'scout_registration', 'migration', 'legacy_external', 'other');
CREATE TYPE canon.decided_by_type AS ENUM ('system', 'manual');
CREATE TYPE canon.origin_resolution_status AS ENUM
    ('pending_review', 'resolved_auto', 'resolved_manual', 'marked_legacy', 'discarded');

CREATE TABLE public.module_ct_cabinet_leads (
    id serial PRIMARY KEY, park_name varchar, external_id varchar, lead_created_at timestamp, first_name varchar,
    middle_name varchar, last_name varchar, park_phone varchar, asset_plate_number varchar, status text
);
COMMENT ON TABLE public.module_ct_cabinet_leads IS 'The host''s';
CREATE UNIQUE INDEX uq_leads_external ON public.module_ct_cabinet_leads (external_id) WHERE external_id IS NOT NULL;
CREATE INDEX idx_leads_created ON public.module_ct_cabinet_leads (lead_created_at DESC);

CREATE TABLE canon.identity_registry (
    person_key uuid PRIMARY KEY DEFAULT gen_random_uuid(), confidence_level confidencelevel NOT NULL,
    created_at timestamptz DEFAULT now() NOT NULL, updated_at timestamptz DEFAULT now() NOT NULL,
    primary_phone varchar, primary_document varchar, primary_license varchar, primary_full_name varchar, flags jsonb,
    merged_into uuid REFERENCES canon.identity_registry
);
CREATE TABLE canon.identity_links (
    id serial PRIMARY KEY,
    person_key uuid NOT NULL CONSTRAINT fk_links_registry REFERENCES canon.identity_registry,
    source_table varchar NOT NULL, source_pk varchar NOT NULL, snapshot_date timestamptz NOT NULL,
    match_rule varchar NOT NULL, match_score integer NOT NULL, confidence_level confidencelevel NOT NULL,
    evidence jsonb, linked_at timestamptz DEFAULT now() NOT NULL, run_id integer,
    CONSTRAINT uq_identity_links_source UNIQUE (source_table, source_pk)
);
CREATE INDEX idx_links_person ON canon.identity_links (person_key);
CREATE TABLE canon.identity_origin (
    person_key uuid PRIMARY KEY REFERENCES canon.identity_registry ON DELETE CASCADE,
    origin_tag canon.origin_tag NOT NULL, origin_source_id varchar NOT NULL, origin_confidence numeric(5, 2) NOT NULL,
    origin_created_at timestamptz NOT NULL, ruleset_version varchar DEFAULT 'origin_rules_v1' NOT NULL, evidence jsonb,
    decided_by canon.decided_by_type DEFAULT 'system' NOT NULL, decided_at timestamptz DEFAULT now() NOT NULL,
    resolution_status canon.origin_resolution_status DEFAULT 'pending_review' NOT NULL, notes text,
    created_at timestamptz DEFAULT now() NOT NULL, updated_at timestamptz DEFAULT now() NOT NULL,
    CHECK (origin_confidence BETWEEN 0 AND 100)
);
CREATE INDEX idx_origin_tag_source ON canon.identity_origin (origin_tag, origin_source_id);
CREATE TABLE canon.identity_origin_history (
    id bigserial PRIMARY KEY, person_key uuid NOT NULL, origin_tag_old varchar, origin_tag_new varchar,
    origin_source_id_old varchar, origin_source_id_new varchar, origin_confidence_old numeric(5, 2),
    origin_confidence_new numeric(5, 2), resolution_status_old varchar, resolution_status_new varchar,
    ruleset_version_old varchar, ruleset_version_new varchar, changed_by varchar, change_reason text,
    changed_at timestamptz DEFAULT now() NOT NULL
);
CREATE FUNCTION canon.log_origin_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO canon.identity_origin_history (person_key, origin_tag_old, origin_tag_new)
    VALUES (new.person_key, old.origin_tag, new.origin_tag);
    RETURN new;
END $$;
CREATE TRIGGER trg_identity_origin_history AFTER UPDATE ON canon.identity_origin
FOR EACH ROW EXECUTE FUNCTION canon.log_origin_change();
CREATE FUNCTION canon.touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN new; END $$;
CREATE TRIGGER trg_touch BEFORE INSERT OR UPDATE ON canon.identity_links
FOR EACH ROW EXECUTE FUNCTION canon.touch();
ALTER TABLE canon.identity_links DISABLE TRIGGER trg_touch;

CREATE TABLE ops.identity_matching_jobs (
    id bigserial PRIMARY KEY, source_type text NOT NULL, source_id text NOT NULL, status text DEFAULT 'pending',
    matched_person_key uuid REFERENCES canon.identity_registry, attempt_count integer DEFAULT 0 NOT NULL,
    last_attempt_at timestamptz, fail_reason text, created_at timestamptz DEFAULT now() NOT NULL,
    updated_at timestamptz DEFAULT now() NOT NULL, priority smallint,
    CONSTRAINT uq_jobs UNIQUE (source_type, source_id)
);
CREATE TABLE ops.payments (person_key uuid, lead_date date, origin_tag varchar, milestone_trips integer,
    milestone_achieved boolean, driver_id varchar, amount numeric);
CREATE VIEW ops.v_payment_calculation AS SELECT * FROM ops.payments;

CREATE TABLE ops.cabinet_lead_recovery_audit (
    lead_id varchar PRIMARY KEY, first_recovered_at timestamptz NOT NULL, last_recovered_at timestamptz NOT NULL,
    recovered_person_key uuid, recovered_by varchar DEFAULT 'system' NOT NULL, recovery_method varchar,
    updated_at timestamptz DEFAULT now() NOT NULL
);
CREATE INDEX idx_audit_first_recovered ON ops.cabinet_lead_recovery_audit (first_recovered_at);

INSERT INTO canon.identity_registry (person_key, confidence_level)
SELECT md5(n::text)::uuid, 'HIGH' FROM generate_series(1, 4) AS n;
INSERT INTO public.module_ct_cabinet_leads (external_id, lead_created_at)
SELECT 'lead-' || n, '2026-01-01' FROM generate_series(1, 4) AS n;
INSERT INTO ops.identity_matching_jobs (source_type, source_id, status, matched_person_key)
SELECT 'cabinet', 'lead-' || n, 'matched', md5(n::text)::uuid FROM generate_series(1, 3) AS n;
INSERT INTO ops.cabinet_lead_recovery_audit VALUES
('lead-1', '2026-01-02', '2026-01-03', md5('1')::uuid, 'system', 'matching_job', '2026-01-03'),
('gone', '2025-01-02', '2025-01-03', NULL, 'somebody', NULL, '2025-01-03');
"""

# As the host had them: other rules, the same columns.
OLD_VIEWS = """
CREATE VIEW ops.v_cabinet_lead_identity_effective AS
SELECT
    COALESCE(lead.external_id, lead.id::text) AS lead_id, lead.lead_created_at::date AS lead_date,
    link.person_key AS person_key_effective,
    CASE WHEN link.id IS NULL THEN 'none' ELSE 'existing_link' END AS identity_link_source,
    link.id IS NOT NULL AS identity_effective
FROM public.module_ct_cabinet_leads AS lead
LEFT JOIN canon.identity_links AS link ON link.source_pk = COALESCE(lead.external_id, lead.id::text);
CREATE VIEW ops.v_cabinet_identity_recovery_impact_14d AS
SELECT
    lead_id, lead_date, lead_date + 14 AS window_end_14d, person_key_effective, identity_effective,
    false AS origin_ok, false AS has_claim, 'unidentified'::text AS claim_status_bucket,
    NULL::timestamptz AS recovered_at, NULL::boolean AS recovered_within_14d,
    'still_unidentified'::text AS impact_bucket
FROM ops.v_cabinet_lead_identity_effective;
CREATE VIEW ops.v_dashboard AS
SELECT impact_bucket, count(*) AS leads FROM ops.v_cabinet_identity_recovery_impact_14d GROUP BY impact_bucket;
COMMENT ON VIEW ops.v_cabinet_identity_recovery_impact_14d IS 'The host''s';
"""


def run(url: str, script: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute(script.encode())


def dump(url: str, *options: str) -> dict[str, str]:
    """Everything in a database, definitions and rows, as pg_dump writes it: an entry per object."""
    text = subprocess.run(
        [
            runnable_binaries() / "pg_dump",
            "--no-tablespaces",
            "--no-table-access-method",
            "--restrict-key=fixed",
            *options,
            url,
        ],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split("--\n-- PostgreSQL database dump complete")[0]
    # Debian's 15.20 marks each column with a number that is another one in each database.
    text = re.sub(r"^ALTER TABLE ONLY .+ SET \(pg_attver=\d+\);\n+", "", text, flags=re.MULTILINE)
    _, *parts = re.split(
        r"^-- (?:Data for )?Name: (.+); Type: (.+); Schema: (.+); Owner: .*$", text, flags=re.MULTILINE
    )
    found = zip(parts[0::4], parts[1::4], parts[2::4], parts[3::4], strict=True)
    return {f"{kind} {schema} {name}": body.strip("-\n ") for name, kind, schema, body in found}


def is_ours(entry: str) -> bool:
    return "cabinet_recovery_" in entry
