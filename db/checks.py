"""What the doctor asks the database, and what has to be there."""

from typing import LiteralString

OLDEST_SERVER = 150_000  # PostgreSQL 15

SET_UP: LiteralString = """
SELECT
    set_config('statement_timeout', %(statement_timeout_ms)s::text, true),
    set_config('lock_timeout', '100ms', true),
    set_config('jit', 'off', true)
"""

# The columns that the service reads and writes, of each table that is not ours to see as a whole.
_LINK: LiteralString = "person_key match_rule match_score confidence_level evidence linked_at"
_ORIGIN: LiteralString = (
    "origin_tag origin_source_id origin_confidence origin_created_at evidence decided_by decided_at resolution_status "
    "updated_at"
)
_AUDIT: LiteralString = "last_recovered_at recovered_person_key recovered_by recovery_method updated_at"
_FAILURE: LiteralString = (
    "outcome sqlstate message attempts failed_events match_waits next_attempt_at parked_at first_seen_at last_seen_at "
    "resolved_at"
)
RIGHTS: dict[str, dict[str, str]] = {
    "public.module_ct_cabinet_leads": {"SELECT": "id"},
    "canon.identity_links": {
        "SELECT": f"{_LINK} source_table source_pk",
        "INSERT": f"{_LINK} source_table source_pk snapshot_date",
        "UPDATE": _LINK,
    },
    "canon.identity_origin": {
        "SELECT": f"{_ORIGIN} person_key",
        "INSERT": f"{_ORIGIN} person_key created_at",
        "UPDATE": _ORIGIN,
    },
    "canon.identity_origin_history": {"INSERT": "person_key changed_at"},
    "ops.cabinet_lead_recovery_audit": {
        "SELECT": f"{_AUDIT} lead_id",
        "INSERT": f"{_AUDIT} lead_id first_recovered_at",
        "UPDATE": _AUDIT,
    },
    "ops.cabinet_recovery_outbox": {
        "SELECT": "lead_id event_id source",
        "INSERT": "lead_id source",
        "UPDATE": "event_id",
        "DELETE": "",
    },
    "ops.cabinet_recovery_exception": {
        "SELECT": f"{_FAILURE} lead_id",
        "INSERT": "lead_id outcome sqlstate message attempts failed_events match_waits",
        "UPDATE": _FAILURE,
    },
    "ops.cabinet_recovery_settings": {
        "SELECT": "only_row business_time_zone notify_mode awake_until",
        "UPDATE": "awake_until",
    },
    "ops.cabinet_recovery_alembic_version": {"SELECT": "version_num"},
    "ops.v_cabinet_recovery_identity": {"SELECT": ""},
    "ops.v_cabinet_recovery_decision": {"SELECT": ""},
    "ops.v_cabinet_recovery_pending": {"SELECT": ""},
    "ops.v_cabinet_recovery_audit": {"SELECT": ""},
    "ops.v_cabinet_recovery_calendar": {"SELECT": ""},
    "ops.v_cabinet_recovery_event": {"SELECT": ""},
    "ops.v_cabinet_recovery_exception": {"SELECT": ""},
    "ops.v_cabinet_recovery_job": {"SELECT": ""},
    "ops.v_cabinet_recovery_link": {"SELECT": ""},
    "ops.v_cabinet_recovery_origin": {"SELECT": ""},
    "ops.v_cabinet_recovery_origin_history": {"SELECT": ""},
    "ops.v_cabinet_identity_recovery_impact_14d": {"SELECT": ""},
}

# What is missing is told as what it is about; a relation that is not there is no right of ours.
MISSING_RIGHTS: LiteralString = """
SELECT right_needed.privilege || ' on ' || right_needed.relation
    || COALESCE(' (' || string_agg(right_needed.column_name, ', ') || ')', '') AS missing
FROM json_to_recordset(%(rights)s::json) AS right_needed (relation text, privilege text, column_name text)
WHERE to_regclass(right_needed.relation) IS NOT NULL
    AND NOT CASE
        WHEN right_needed.column_name IS NULL
            THEN has_table_privilege(to_regclass(right_needed.relation), right_needed.privilege)
        ELSE has_column_privilege(
            to_regclass(right_needed.relation), right_needed.column_name, right_needed.privilege
        )
    END
GROUP BY right_needed.relation, right_needed.privilege
UNION ALL
SELECT 'USAGE on sequence ' || sequence_name
FROM (
    SELECT pg_get_serial_sequence(owner_table, 'id') AS sequence_name
    FROM unnest(ARRAY['canon.identity_links', 'canon.identity_origin_history']) AS owner_table
    WHERE to_regclass(owner_table) IS NOT NULL
) AS counted
WHERE sequence_name IS NOT NULL AND NOT has_sequence_privilege(sequence_name, 'USAGE')
UNION ALL
SELECT 'USAGE on schema ' || nspname FROM pg_namespace
WHERE nspname IN ('canon', 'ops') AND NOT has_schema_privilege(oid, 'USAGE')
"""

# O fires for everybody but replication, A always, R for replication alone, D never.
TRIGGERS: LiteralString = """
SELECT tgname, tgenabled::text AS state
FROM pg_trigger
WHERE tgrelid = ANY(ARRAY[to_regclass('canon.identity_links'), to_regclass('ops.identity_matching_jobs')]::oid[])
    AND NOT tgisinternal
"""

# In the order in which they can be made.
VIEWS: dict[str, str] = {
    "v_cabinet_recovery_identity": (
        "lead_pk lead_id lead_created_at lead_date window_ends_at link_pk link_person_key linked_at link_version "
        "link_person_known job_id job_person_key job_person_known person_key_effective"
    ),
    "v_cabinet_recovery_decision": (
        "lead_pk lead_id lead_created_at lead_date window_ends_at person_key method link_action origin_action outcome "
        "reason match_waits recorded_outcome is_due job_id link_person_key linked_at link_version origin_tag "
        "origin_source_id origin_resolution_status origin_decided_by origin_version"
    ),
    "v_cabinet_recovery_pending": "lead_id events requested_at parked_at next_attempt_at is_due",
    "v_cabinet_lead_identity_effective": (
        "lead_id lead_date person_key_effective identity_link_source identity_effective"
    ),
    "v_cabinet_identity_recovery_impact_14d": (
        "lead_id lead_date window_end_14d person_key_effective identity_effective origin_ok has_claim "
        "claim_status_bucket recovered_at recovered_within_14d impact_bucket"
    ),
    "v_cabinet_recovery_calendar": "business_time_zone read_at today",
    "v_cabinet_recovery_audit": (
        "lead_id first_recovered_at last_recovered_at recovered_person_key recovered_by recovery_method lead_date "
        "lead_created_at window_ends_at matched_at"
    ),
    "v_cabinet_recovery_exception": (
        "lead_id outcome sqlstate message attempts next_attempt_at parked_at first_seen_at last_seen_at resolved_at"
    ),
    "v_cabinet_recovery_event": "lead_id event_id source requested_at",
    "v_cabinet_recovery_job": "lead_id status person_key attempts last_attempt_at updated_at",
    "v_cabinet_recovery_link": "lead_id person_key match_rule match_score linked_at previous_person_key",
    "v_cabinet_recovery_origin": "person_key origin_tag origin_source_id resolution_status decided_by decided_at",
    "v_cabinet_recovery_origin_history": (
        "person_key changed_at origin_tag_old origin_source_id_old resolution_status_old origin_tag_new "
        "origin_source_id_new resolution_status_new"
    ),
}

# The two that the host knows by name are its own again where they read nothing of ours.
VIEW_COLUMNS: LiteralString = """
SELECT
    relation.relname,
    string_agg(attribute.attname, ' ' ORDER BY attribute.attnum) AS columns,
    relation.relname !~ '^v_cabinet_recovery_' AND NOT EXISTS (
        SELECT FROM pg_rewrite AS rule
        INNER JOIN pg_depend AS reads ON reads.classid = 'pg_rewrite'::regclass AND reads.objid = rule.oid
        INNER JOIN pg_class AS ours ON reads.refclassid = 'pg_class'::regclass AND reads.refobjid = ours.oid
        WHERE rule.ev_class = relation.oid
            AND ours.relnamespace = relation.relnamespace
            AND ours.relname ~ '^(v_)?cabinet_recovery_'
    ) AS is_theirs
FROM pg_class AS relation
INNER JOIN pg_attribute AS attribute ON attribute.attrelid = relation.oid
WHERE relation.relnamespace = to_regnamespace('ops')
    AND relation.relname = ANY(%(views)s)
    AND relation.relkind = 'v'
    AND attribute.attnum > 0
GROUP BY relation.oid, relation.relname, relation.relnamespace
"""

# The probe. What it writes is a link, and a job, of a lead that there is not; all of it is rolled back. Of the host's
# rows it locks none but the persons' keys, as every foreign key does.
PERSONS: LiteralString = """
SELECT person_key FROM (
    (SELECT person_key FROM canon.identity_origin LIMIT 2)
    UNION
    (SELECT person_key FROM canon.identity_links LIMIT 2)
) AS somebody LIMIT 2
"""
MAY_WRITE_JOBS: LiteralString = """
SELECT has_table_privilege('ops.identity_matching_jobs', 'INSERT')
    AND has_table_privilege('ops.identity_matching_jobs', 'UPDATE') AS may_write
"""
INSERT_LINK: LiteralString = """
INSERT INTO canon.identity_links (
    person_key, source_table, source_pk, snapshot_date, match_rule, match_score, confidence_level
) VALUES (%(person)s, 'module_ct_cabinet_leads', %(lead_id)s, now(), 'cabinet_recovery_doctor', 0, 'LOW')
"""
UPDATE_LINK: LiteralString = """
UPDATE canon.identity_links SET person_key = %(person)s
WHERE source_table = 'module_ct_cabinet_leads' AND source_pk = %(lead_id)s
"""
INSERT_JOB: LiteralString = """
INSERT INTO ops.identity_matching_jobs (source_type, source_id, status, matched_person_key)
VALUES ('cabinet', %(lead_id)s, 'matched', %(person)s)
"""
UPDATE_JOB: LiteralString = """
UPDATE ops.identity_matching_jobs SET matched_person_key = %(person)s
WHERE source_type = 'cabinet' AND source_id = %(lead_id)s
"""
COUNT_EVENTS: LiteralString = """
SELECT count(*) AS events FROM ops.cabinet_recovery_outbox WHERE lead_id = %(lead_id)s
"""

SETTINGS: LiteralString = """
SELECT business_time_zone, notify_mode, (now() AT TIME ZONE business_time_zone)::date AS today
FROM ops.cabinet_recovery_settings
"""

DUE: LiteralString = """
SELECT
    (
        SELECT count(*) FROM ops.v_cabinet_recovery_pending
        WHERE is_due AND requested_at < now() - %(patience_seconds)s * interval '1 second'
    ) AS by_event,
    (
        SELECT count(*) FROM ops.v_cabinet_recovery_decision AS decision
        WHERE is_due
            AND NOT EXISTS (SELECT FROM ops.cabinet_recovery_outbox AS event WHERE event.lead_id = decision.lead_id)
    ) AS by_state
"""

UNDONE: LiteralString = """
SELECT
    count(*) FILTER (WHERE parked_at IS NOT NULL) AS parked,
    count(*) FILTER (WHERE outcome = 'failed' AND parked_at IS NULL) AS failed,
    count(*) FILTER (WHERE outcome IN ('unknown_lead', 'unknown_person')) AS waiting
FROM ops.cabinet_recovery_exception
WHERE resolved_at IS NULL
"""

STALE_ORIGINS: LiteralString = """
SELECT count(*) AS leads, min(origin.origin_source_id) AS example
FROM canon.identity_origin AS origin
WHERE origin.origin_tag::text = 'cabinet_lead'
    AND NOT EXISTS (
        SELECT FROM ops.v_cabinet_recovery_identity AS lead WHERE lead.lead_id = origin.origin_source_id
    )
"""

DISAGREEMENTS: LiteralString = """
SELECT count(*) AS leads, min(lead_id) AS example
FROM ops.v_cabinet_recovery_identity
WHERE job_person_key <> link_person_key
"""

FOREIGN_AUDIT: LiteralString = """
SELECT
    count(*) AS leads,
    max(updated_at) AS latest,
    COALESCE(max(updated_at) > now() - interval '7 days', FALSE) AS is_recent
FROM ops.cabinet_lead_recovery_audit
WHERE recovered_by <> 'system'
    OR recovery_method IS NULL
    OR recovery_method NOT IN ('identity_link', 'matching_job')
"""

NOW: LiteralString = "SELECT clock_timestamp() AS now"
QUEUE_USAGE: LiteralString = "SELECT pg_notification_queue_usage() AS usage"
NOTIFY: LiteralString = "SELECT pg_notify(%(channel)s, '')"
