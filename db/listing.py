"""The statements that list what is due, in the order in which it is to be worked.

A list comes packed, CHUNK leads in a row, which `%(chunk)s` is to be given: as JSON, for a million ids as Python
objects would be a hundred megabytes.
"""

from typing import LiteralString

CHUNK = 500

# A list may have to look at everything: hashing is allowed, but compiling costs more than it saves. Not to read tables
# from end to end costs a fifth more on large ones; a plan that does so for each lead, made while a table was empty,
# would take minutes as soon as another sweep fills it. So would one that merges: to look at the lead that holds a
# person's origin, it goes through all leads before that one.
SET_UP_LISTING: LiteralString = """
SELECT
    set_config('statement_timeout', %(statement_timeout_ms)s::text, true),
    -- Over before anybody's deadlock_timeout: should our locks cross with somebody's, it is we who give way.
    set_config('lock_timeout', '500ms', true),
    set_config('enable_seqscan', 'off', true),
    set_config('enable_mergejoin', 'off', true),
    set_config('enable_material', 'off', true),
    set_config('jit', 'off', true),
    set_config('plan_cache_mode', 'force_custom_plan', true)
"""

# For a list over leads that are named or numbered: whatever the statistics say, each is looked up by its keys. Where a
# table was empty when it was last looked at, all of it was gone through for each lead: 6,000 leads that one person's
# origin kept waiting took more than a minute.
SET_UP_BY_KEY: LiteralString = "SELECT set_config('enable_hashjoin', 'off', true)"

# Open windows first, the one that closes soonest leading; then expired ones, newest first; no date last.
_BY_DEADLINE: LiteralString = """
ORDER BY
    CASE WHEN window_ends_at >= now() THEN window_ends_at END ASC NULLS LAST,
    window_ends_at DESC NULLS LAST,
    lead_id ASC
"""

_PACKED: LiteralString = """
SELECT
    json_agg(lead_id ORDER BY place)::text AS lead_ids,
    string_agg(CASE WHEN has_event THEN '1' ELSE '0' END, '' ORDER BY place) AS have_events
FROM (SELECT lead_id, has_event, row_number() OVER () - 1 AS place FROM (
"""
# A database in SQL_ASCII may hold ids that are not UTF-8, and the server would fail over telling of them.
CAN_BE_TOLD: LiteralString = r"""
((SELECT getdatabaseencoding()) <> 'SQL_ASCII' OR lead_id ~ '(?x) ^ (
    [\x01-\x7f] | [\xc2-\xdf][\x80-\xbf]
    | \xe0[\xa0-\xbf][\x80-\xbf] | [\xe1-\xec\xee\xef][\x80-\xbf]{2} | \xed[\x80-\x9f][\x80-\xbf]
    | \xf0[\x90-\xbf][\x80-\xbf]{2} | [\xf1-\xf3][\x80-\xbf]{3} | \xf4[\x80-\x8f][\x80-\xbf]{2}
)* $')
"""
_IN_CHUNKS: LiteralString = ") AS ordered WHERE " + CAN_BE_TOLD
_IN_CHUNKS += """
) AS numbered
GROUP BY place / %(chunk)s::integer
ORDER BY place / %(chunk)s::integer
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

LIST_PENDING: LiteralString = _PACKED + _PENDING + _BY_DEADLINE + "LIMIT %(limit)s" + _IN_CHUNKS

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
LIST_ALL: LiteralString = _PACKED + "SELECT lead_id, has_event FROM " + _DUE + _UNLESS_SOMEBODY_LOOKS  # noqa: S608 # all of it is here
LIST_ALL += _BY_DEADLINE + "LIMIT %(limit)s" + _IN_CHUNKS

_ARE_WAITING: LiteralString = """
SELECT lead_id FROM ops.cabinet_recovery_exception
WHERE resolved_at IS NULL AND outcome IN ('unknown_lead', 'unknown_person', 'origin_held')
    AND (%(after)s::text IS NULL OR lead_id > %(after)s)
"""

# What waits for its lead, its person or its person's origin, `size` of them after the one named, or from the first on.
WAITING_END: LiteralString = "SELECT max(lead_id) AS slice_end, count(*) AS leads FROM (" + _ARE_WAITING  # noqa: S608 # all of it is here
WAITING_END += "ORDER BY lead_id LIMIT %(size)s) AS slice"

LIST_WAITING: LiteralString = _PACKED + _WITHOUT_EVENT + "AND lead_id = ANY(ARRAY(" + _ARE_WAITING
LIST_WAITING += "AND lead_id <= %(slice_end)s))" + _BY_DEADLINE + _IN_CHUNKS

LIST_SLICE: LiteralString = _PACKED + _WITHOUT_EVENT + "AND lead_pk > %(after)s AND lead_pk <= %(slice_end)s"
LIST_SLICE += _BY_DEADLINE + _IN_CHUNKS

BY_KEY = (LIST_WAITING, LIST_SLICE)

SLICE_END: LiteralString = """
SELECT max(id) AS slice_end
FROM (SELECT id FROM public.module_ct_cabinet_leads WHERE id > %(after)s ORDER BY id LIMIT %(size)s) AS slice
"""
