-- The service's own tables. Only the audit may already be there: the old job kept it, and it is adopted with its
-- rows.

CREATE TABLE IF NOT EXISTS ops.cabinet_lead_recovery_audit (
    lead_id varchar PRIMARY KEY,
    first_recovered_at timestamptz NOT NULL,
    last_recovered_at timestamptz NOT NULL,
    recovered_person_key uuid,
    recovered_by varchar NOT NULL DEFAULT 'system',
    recovery_method varchar,
    updated_at timestamptz NOT NULL DEFAULT now()
);

-- Append-only for the engine: nothing but the key is unique and nothing is updated, so its transactions can
-- neither wait for ours nor deadlock with them.
CREATE TABLE IF NOT EXISTS ops.cabinet_recovery_outbox (
    lead_id text NOT NULL,
    event_id bigint GENERATED ALWAYS AS IDENTITY,
    source text NOT NULL CHECK (source IN ('identity_link', 'matching_job', 'reconcile', 'operator')),
    requested_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (lead_id, event_id)
) WITH (
    -- A queue's rows live for milliseconds: clean it by what passed through, not by what stands in it.
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000,
    autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 100000,
    autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 10000
);

CREATE TABLE IF NOT EXISTS ops.cabinet_recovery_exception (
    lead_id text PRIMARY KEY,
    outcome text NOT NULL CHECK (
        outcome IN ('no_person_key', 'origin_manual', 'origin_held', 'unknown_lead', 'unknown_person', 'failed')
    ),
    sqlstate text,
    message text,
    attempts integer NOT NULL DEFAULT 0,
    -- How many events the lead had when it last failed; more than that now means that it was matched anew.
    failed_events integer NOT NULL DEFAULT 0,
    next_attempt_at timestamptz,
    parked_at timestamptz,
    -- A match of the job table that cannot be applied yet: its event is settled, so this remembers it.
    match_waits boolean NOT NULL DEFAULT false,
    first_seen_at timestamptz NOT NULL DEFAULT now(),
    last_seen_at timestamptz NOT NULL DEFAULT now(),
    resolved_at timestamptz
);
CREATE INDEX IF NOT EXISTS ix_cabinet_recovery_exception_unresolved
ON ops.cabinet_recovery_exception (lead_id) WHERE resolved_at IS NULL;

CREATE TABLE IF NOT EXISTS ops.cabinet_recovery_settings (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    -- The constraint raises for a zone that the server does not know.
    business_time_zone text NOT NULL DEFAULT 'UTC'
    CHECK (timestamp 'epoch' AT TIME ZONE business_time_zone IS NOT NULL),
    notify_mode text NOT NULL DEFAULT 'on' CHECK (notify_mode IN ('on', 'off')),
    -- The host's two views: what we made of them, and what they were before. A downgrade puts them back.
    replaced_views jsonb NOT NULL DEFAULT '{}'
);
INSERT INTO ops.cabinet_recovery_settings DEFAULT VALUES ON CONFLICT DO NOTHING;
