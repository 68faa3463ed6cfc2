"""The statements that list what is due, in the order in which it is to be worked."""

from typing import LiteralString

# A list may have to look at everything: the planner is free, but compiling costs more than it saves.
SET_UP_LISTING: LiteralString = """
SELECT
    set_config('statement_timeout', %(statement_timeout_ms)s::text, true),
    -- Over before anybody's deadlock_timeout: should our locks cross with somebody's, it is we who give way.
    set_config('lock_timeout', '500ms', true),
    set_config('jit', 'off', true),
    set_config('plan_cache_mode', 'force_custom_plan', true)
"""

# Open windows first, the one that closes soonest leading; then expired ones, newest first; no date last.
_BY_DEADLINE: LiteralString = """
ORDER BY
    CASE WHEN window_ends_at >= now() THEN window_ends_at END ASC NULLS LAST,
    window_ends_at DESC NULLS LAST,
    lead_id ASC
"""

_PENDING: LiteralString = """
SELECT pending.lead_id, lead.window_ends_at, true AS has_event
FROM ops.v_cabinet_recovery_pending AS pending
LEFT JOIN ops.v_cabinet_recovery_identity AS lead ON pending.lead_id = lead.lead_id
WHERE pending.is_due
"""

# What has no event, by state: matches older than the triggers, direct writes to partitions, restores.
_WITHOUT_EVENT: LiteralString = """
SELECT lead_id, window_ends_at, false AS has_event
FROM ops.v_cabinet_recovery_decision AS decision
WHERE is_due
    AND NOT EXISTS (SELECT FROM ops.cabinet_recovery_outbox AS event WHERE event.lead_id = decision.lead_id)
"""

LIST_PENDING: LiteralString = _PENDING + _BY_DEADLINE + "LIMIT %(limit)s"

# For LIST_ALL in the same transaction. The lock is the transaction's, not the session's: behind a pooler, a session
# is not ours to hold anything in. The number is any that nobody else uses.
LOOK_ALONE: LiteralString = """
SELECT set_config(
    'cabinet_recovery.looks_alone', pg_try_advisory_xact_lock(7214614115)::text, true
)::boolean AS is_alone
"""

_DUE: LiteralString = "(" + _PENDING + " UNION ALL " + _WITHOUT_EVENT + ") AS due"
_UNLESS_SOMEBODY_LOOKS: LiteralString = """
WHERE current_setting('cabinet_recovery.looks_alone', true) IS DISTINCT FROM 'false'
"""
LIST_ALL: LiteralString = (
    "SELECT lead_id, has_event FROM " + _DUE + _UNLESS_SOMEBODY_LOOKS + _BY_DEADLINE + "LIMIT %(limit)s"  # noqa: S608 # all of it is here
)

_ARE_WAITING: LiteralString = """
AND lead_id = ANY(ARRAY(
    SELECT lead_id FROM ops.cabinet_recovery_exception
    WHERE resolved_at IS NULL AND outcome IN ('unknown_lead', 'unknown_person', 'origin_held')
))
"""
LIST_WAITING: LiteralString = _WITHOUT_EVENT + _ARE_WAITING

LIST_SLICE: LiteralString = _WITHOUT_EVENT + "AND lead_pk > %(after)s AND lead_pk <= %(slice_end)s"

SLICE_END: LiteralString = """
SELECT max(id) AS slice_end
FROM (SELECT id FROM public.module_ct_cabinet_leads WHERE id > %(after)s ORDER BY id LIMIT %(size)s) AS slice
"""
