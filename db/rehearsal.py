"""What would be done, read from the decision view and done by nobody."""

import sqlalchemy as sa

SET_UP = sa.text("""
    SELECT
        set_config('transaction_read_only', 'on', true),
        set_config('statement_timeout', '300s', true),
        set_config('lock_timeout', '500ms', true),
        set_config('jit', 'off', true),
        set_config('plan_cache_mode', 'force_custom_plan', true)
""")

# One person, one origin: of the leads that would take it the earlier wins, as in the handler's batch.
_PLANNED = """
    planned AS (
        SELECT
            lead_id, outcome, reason, person_key, method, link_action, origin_action, window_ends_at, is_due,
            origin_action IS NOT NULL AND lead_id <> first_value(lead_id) OVER rivals AS is_beaten,
            first_value(lead_id) OVER rivals AS winner
        FROM listed
        WINDOW rivals AS (
            PARTITION BY person_key, origin_action IS NOT NULL
            ORDER BY lead_created_at ASC NULLS LAST, lead_id COLLATE "C" ASC
        )
    )
    SELECT
        lead_id,
        CASE WHEN is_beaten THEN 'origin_held' ELSE outcome END AS outcome,
        CASE
            WHEN is_beaten THEN 'the origin of its person would go to lead ' || left(winner, 100)
            ELSE reason
        END AS reason,
        person_key::text AS person_key,
        method,
        link_action,
        CASE WHEN NOT is_beaten THEN origin_action END AS origin_action,
        CASE
            WHEN outcome <> 'recovered' OR is_beaten THEN NULL
            WHEN EXISTS (
                SELECT FROM ops.cabinet_lead_recovery_audit AS audit WHERE audit.lead_id = planned.lead_id
            ) THEN 'update'
            ELSE 'create'
        END AS audit_action
    FROM planned
"""

# As the sweep lists them: what has an event that is due, and what is due by its state alone.
DUE = sa.text(f"""
    WITH listed AS (
        SELECT
            COALESCE(decision.lead_id, pending.lead_id) AS lead_id,
            COALESCE(decision.outcome, 'unknown_lead') AS outcome,
            COALESCE(decision.reason, 'no such lead yet') AS reason,
            decision.person_key, decision.method, decision.link_action, decision.origin_action,
            decision.lead_created_at, decision.window_ends_at,
            CASE WHEN pending.lead_id IS NULL THEN decision.is_due ELSE pending.is_due END AS is_due
        FROM ops.v_cabinet_recovery_decision AS decision
        FULL JOIN ops.v_cabinet_recovery_pending AS pending ON decision.lead_id = pending.lead_id
        WHERE CASE WHEN pending.lead_id IS NULL THEN decision.is_due ELSE pending.is_due END
    ), {_PLANNED}
    ORDER BY
        CASE WHEN window_ends_at >= now() THEN window_ends_at END ASC NULLS LAST,
        window_ends_at DESC NULLS LAST,
        lead_id ASC
    LIMIT :limit
""")  # noqa: S608 # all of it is here

NAMED = sa.text(f"""
    WITH listed AS (SELECT * FROM ops.v_cabinet_recovery_decision WHERE lead_id = ANY(:lead_ids)), {_PLANNED}
""")  # noqa: S608 # all of it is here
