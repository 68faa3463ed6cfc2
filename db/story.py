"""All that the tables know of one lead, without anything personal."""

from typing import Any

import sqlalchemy as sa

SET_UP = sa.text("""
    SELECT
        set_config('transaction_read_only', 'on', true),
        set_config('statement_timeout', '30s', true),
        set_config('lock_timeout', '500ms', true)
""")

LEAD = sa.text("""
    SELECT lead_id, lead_created_at, lead_date, window_ends_at, window_ends_at >= now() AS window_is_open
    FROM ops.v_cabinet_recovery_identity
    WHERE lead_id = :lead_id
""")

JOB = sa.text("""
    SELECT status, matched_person_key AS person_key, attempt_count AS attempts, last_attempt_at, updated_at
    FROM ops.identity_matching_jobs
    WHERE source_type = 'cabinet' AND source_id = :lead_id
""")

# The evidence of others may hold anything; of ours, only who was linked before.
LINK = sa.text("""
    SELECT
        person_key,
        match_rule,
        match_score,
        linked_at,
        CASE WHEN match_rule = 'cabinet_recovery' THEN evidence #>> '{previous,person_key}' END AS previous_person_key
    FROM canon.identity_links
    WHERE source_table = 'module_ct_cabinet_leads' AND source_pk = :lead_id
""")

DECISION = sa.text("""
    SELECT person_key, outcome, reason, method, link_action, origin_action, match_waits, is_due
    FROM ops.v_cabinet_recovery_decision
    WHERE lead_id = :lead_id
""")

# Of the person, whoever's it is: it is what stands in the way.
ORIGIN = sa.text("""
    SELECT
        origin_tag::text AS origin_tag,
        origin_source_id,
        resolution_status::text AS resolution_status,
        decided_by::text AS decided_by,
        decided_at
    FROM canon.identity_origin
    WHERE person_key = :person_key
""")

# Not who changed it, nor why: the one may be a name, the other anything.
HISTORY = sa.text("""
    SELECT
        changed_at,
        origin_tag_old::text AS origin_tag_old,
        origin_source_id_old,
        resolution_status_old::text AS resolution_status_old,
        origin_tag_new::text AS origin_tag_new,
        origin_source_id_new,
        resolution_status_new::text AS resolution_status_new
    FROM canon.identity_origin_history
    WHERE person_key = :person_key
    ORDER BY changed_at DESC
    LIMIT 20
""")

EVENTS = sa.text("""
    SELECT source, requested_at
    FROM ops.cabinet_recovery_outbox
    WHERE lead_id = :lead_id
    ORDER BY event_id DESC
    LIMIT 20
""")

AUDIT = sa.text("""
    SELECT
        first_recovered_at,
        last_recovered_at,
        recovered_person_key,
        CASE WHEN recovered_by = 'system' THEN 'system' ELSE 'somebody else' END AS recovered_by,
        recovery_method
    FROM ops.cabinet_lead_recovery_audit
    WHERE lead_id = :lead_id
""")

# What the database said of bad data may quote them.
EXCEPTION = sa.text("""
    SELECT
        outcome,
        sqlstate,
        CASE WHEN outcome <> 'failed' THEN message END AS message,
        attempts,
        next_attempt_at,
        parked_at,
        first_seen_at,
        last_seen_at,
        resolved_at
    FROM ops.cabinet_recovery_exception
    WHERE lead_id = :lead_id
""")

IMPACT = sa.text("""
    SELECT impact_bucket, claim_status_bucket, origin_ok, has_claim, recovered_within_14d
    FROM ops.v_cabinet_identity_recovery_impact_14d
    WHERE lead_id = :lead_id
""")

Facts = dict[str, Any]


def read_one(connection: sa.Connection, query: sa.TextClause, **parameters: Any) -> Facts | None:
    row = connection.execute(query, parameters).mappings().one_or_none()
    return None if row is None else dict(row)


def read_many(connection: sa.Connection, query: sa.TextClause, **parameters: Any) -> list[Facts]:
    """The rows of a query that lists the latest first, in the order of time."""
    return [dict(row) for row in connection.execute(query, parameters).mappings()][::-1]
