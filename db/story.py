"""All that the views know of one lead. They leave out what is personal, so that nobody here has to."""

from typing import Any

import sqlalchemy as sa

SET_UP = sa.text("""
    SELECT
        set_config('transaction_read_only', 'on', true),
        set_config('statement_timeout', '30s', true),
        set_config('lock_timeout', '500ms', true),
        set_config('jit', 'off', true)
""")

LEAD = sa.text("""
    SELECT lead_id, lead_created_at, lead_date, window_ends_at, window_ends_at >= now() AS window_is_open
    FROM ops.v_cabinet_recovery_decision
    WHERE lead_id = :lead_id
""")

JOB = sa.text("""
    SELECT status, person_key, attempts, last_attempt_at, updated_at
    FROM ops.v_cabinet_recovery_job
    WHERE lead_id = :lead_id
""")

LINK = sa.text("""
    SELECT person_key, match_rule, match_score, linked_at, previous_person_key
    FROM ops.v_cabinet_recovery_link
    WHERE lead_id = :lead_id
""")

DECISION = sa.text("""
    SELECT person_key, outcome, reason, method, link_action, origin_action, match_waits, is_due
    FROM ops.v_cabinet_recovery_decision
    WHERE lead_id = :lead_id
""")

ORIGIN = sa.text("""
    SELECT origin_tag, origin_source_id, resolution_status, decided_by, decided_at
    FROM ops.v_cabinet_recovery_origin
    WHERE person_key = :person_key
""")

HISTORY = sa.text("""
    SELECT
        changed_at,
        origin_tag_old,
        origin_source_id_old,
        resolution_status_old,
        origin_tag_new,
        origin_source_id_new,
        resolution_status_new
    FROM ops.v_cabinet_recovery_origin_history
    WHERE person_key = :person_key
    ORDER BY changed_at DESC
    LIMIT 20
""")

EVENTS = sa.text("""
    SELECT source, requested_at
    FROM ops.v_cabinet_recovery_event
    WHERE lead_id = :lead_id
    ORDER BY event_id DESC
    LIMIT 20
""")

AUDIT = sa.text("""
    SELECT first_recovered_at, last_recovered_at, recovered_person_key, recovered_by, recovery_method
    FROM ops.v_cabinet_recovery_audit
    WHERE lead_id = :lead_id
""")

EXCEPTION = sa.text("""
    SELECT
        outcome, sqlstate, message, attempts, next_attempt_at, parked_at, first_seen_at, last_seen_at, resolved_at
    FROM ops.v_cabinet_recovery_exception
    WHERE lead_id = :lead_id
""")

# The view joins all claims. Told the person, the planner looks for those of this one alone: of a million leads, in
# milliseconds instead of half a second.
_PERSON = sa.text("""
    SELECT person_key_effective FROM ops.v_cabinet_identity_recovery_impact_14d WHERE lead_id = :lead_id
""")
_IMPACT = """
    SELECT impact_bucket, claim_status_bucket, origin_ok, has_claim, recovered_within_14d
    FROM ops.v_cabinet_identity_recovery_impact_14d
    WHERE lead_id = :lead_id AND
"""
_IMPACT_OF_PERSON = sa.text(f"{_IMPACT} person_key_effective = :person_key")
_IMPACT_OF_NOBODY = sa.text(f"{_IMPACT} person_key_effective IS NULL")

Facts = dict[str, Any]


def read_one(connection: sa.Connection, query: sa.TextClause, **parameters: Any) -> Facts | None:
    row = connection.execute(query, parameters).mappings().one_or_none()
    return None if row is None else dict(row)


def read_impact_of(connection: sa.Connection, lead_id: str) -> Facts | None:
    """How the lead is counted; to be read as of one moment with the rest."""
    person = connection.scalar(_PERSON, {"lead_id": lead_id})
    if person is None:
        return read_one(connection, _IMPACT_OF_NOBODY, lead_id=lead_id)
    return read_one(connection, _IMPACT_OF_PERSON, lead_id=lead_id, person_key=person)


def read_many(connection: sa.Connection, query: sa.TextClause, **parameters: Any) -> list[Facts]:
    """The rows of a query that lists the latest first, in the order of time."""
    return [dict(row) for row in connection.execute(query, parameters).mappings()][::-1]
