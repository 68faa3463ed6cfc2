"""The statements of recovery.

SET_UP_BATCH, for an operator ENQUEUE_ASKED, CLAIM and RESOLVE run in one transaction, in one round trip. What a
statement must hand to the next stays on the server, in settings local to the transaction, so a consumer that freezes
between two of them holds nothing.
"""

from typing import LiteralString

# Batches are small and every look-up has an index: whatever the statistics say, a plan that scans a table is wrong,
# and a plan made once is as good as a new one.
#
# A batch is over before anybody's deadlock_timeout: whoever waits for a row of ours looks for a deadlock only then,
# and would be the one to break it. A lead that stands alone may take its time.
SET_UP_BATCH: LiteralString = """
SELECT
    set_config('lock_timeout', %(lock_timeout_ms)s::text, true),
    set_config('statement_timeout', bounds.statement_ms::bigint::text, true),
    -- Should we freeze between two statements, the server gives our locks back.
    CASE WHEN current_setting('server_version_num')::integer >= 170000 THEN
        set_config(
            'transaction_timeout', LEAST(5 * bounds.statement_ms, 2 * %(statement_timeout_ms)s)::bigint::text, true
        )
    END,
    set_config('enable_seqscan', 'off', true),
    set_config('enable_hashjoin', 'off', true),
    set_config('enable_mergejoin', 'off', true),
    set_config('enable_material', 'off', true),
    set_config('jit', 'off', true),
    set_config('plan_cache_mode', 'force_generic_plan', true)
FROM (
    SELECT CASE
        WHEN %(is_alone)s THEN %(statement_timeout_ms)s
        ELSE LEAST(
            %(statement_timeout_ms)s,
            800 * EXTRACT(EPOCH FROM current_setting('deadlock_timeout')::interval)
        )
    END AS statement_ms
) AS bounds
"""

# A lead that has events keeps them: an event more would only look like a new match to one that has failed before.
ENQUEUE_DUE: LiteralString = """
INSERT INTO ops.cabinet_recovery_outbox (lead_id, source)
SELECT decision.lead_id, 'reconcile'
FROM ops.v_cabinet_recovery_decision AS decision
WHERE decision.lead_id = ANY(%(lead_ids)s::text[])
    AND decision.is_due
    AND (decision.lead_id IN (
        SELECT lead_id FROM ops.cabinet_recovery_outbox WHERE lead_id = ANY(%(lead_ids)s::text[])
    )) IS NOT TRUE
"""

# Here the event more is the point: it makes a lead due that had failed, one that is gone by now as well. What is
# neither a lead nor has an event leaves no trace.
ENQUEUE_ASKED: LiteralString = """
INSERT INTO ops.cabinet_recovery_outbox (lead_id, source)
SELECT lead_id, 'operator'
FROM ops.v_cabinet_recovery_identity
WHERE lead_id = ANY(%(lead_ids)s::text[])
UNION
SELECT lead_id, 'operator'
FROM ops.cabinet_recovery_outbox
WHERE lead_id = ANY(%(lead_ids)s::text[])
"""

# A lead is claimed only with all its events that can be seen: with fewer, another handler is at work on it, perhaps
# with an older view of the world, and would write last. A sweep claims a lead that has none by its state alone:
# RESOLVE, which decides for every lead anyhow, says whether there is anything to do. `own` keeps our writes from firing
# our triggers: only the transaction with this id can carry it.
CLAIM: LiteralString = """
WITH pending AS MATERIALIZED (
    SELECT lead_id, events, requested_at
    FROM ops.v_cabinet_recovery_pending
    WHERE lead_id = ANY(%(lead_ids)s::text[]) AND is_due
),
locked AS MATERIALIZED (
    SELECT lead_id, event_id, source
    FROM ops.cabinet_recovery_outbox
    WHERE lead_id = ANY(ARRAY(SELECT lead_id FROM pending))
    ORDER BY lead_id, event_id
    FOR UPDATE SKIP LOCKED
),
claim AS MATERIALIZED (
    SELECT
        lead_id,
        array_agg(event_id) AS event_ids,
        (array_agg(source ORDER BY event_id DESC) FILTER (WHERE source IN ('matching_job', 'identity_link')))[1]
            AS newest_match
    FROM locked
    GROUP BY lead_id
    HAVING ((lead_id, count(*)) IN (SELECT lead_id, events FROM pending)) IS TRUE
    UNION ALL
    SELECT lead_id, '{}', NULL
    FROM unnest(%(lead_ids)s::text[]) AS swept (lead_id)
    WHERE %(by_state)s AND (lead_id IN (
        SELECT lead_id FROM ops.cabinet_recovery_outbox WHERE lead_id = ANY(%(lead_ids)s::text[])
    )) IS NOT TRUE
)
SELECT
    set_config('cabinet_recovery.claim', (SELECT COALESCE(json_agg(claim), '[]') FROM claim)::text, true),
    CASE WHEN EXISTS (SELECT FROM claim) THEN
        set_config('cabinet_recovery.own', pg_current_xact_id()::text, true)
    END,
    ARRAY(SELECT lead_id FROM pending WHERE lead_id NOT IN (SELECT lead_id FROM claim)) AS busy,
    (SELECT COALESCE(json_object_agg(lead_id, EXTRACT(EPOCH FROM requested_at)), '{}') FROM pending) AS requested_at
"""

# The decision is the view's; here it is carried out. A row is written over only in the version that the decision saw
# (an xmin among those that this snapshot shows); a lead whose write did not come back is told of as busy, and decided
# anew. That is all that a lead without events has against a handler with a newer view: nothing of it can be locked.
#
# No joins, but IN (SELECT …) among the parts, which hashes, and = ANY(ARRAY(…)) on tables, which looks them up: a join
# is at the mercy of what the planner believes of an outbox that was empty when it was analysed.
RESOLVE: LiteralString = """
WITH claimed AS MATERIALIZED (
    SELECT *, event_ids = '{}' AS by_state
    FROM json_to_recordset(current_setting('cabinet_recovery.claim')::json)
        AS claim (lead_id text, event_ids bigint[], newest_match text)
),
decided AS MATERIALIZED (
    SELECT
        lead_id, lead_created_at, person_key, method, link_action, origin_action, outcome, reason, match_waits, job_id,
        linked_at, link_version, origin_tag, origin_source_id, origin_resolution_status, origin_decided_by,
        origin_version
    FROM ops.v_cabinet_recovery_decision
    WHERE lead_id = ANY(ARRAY(SELECT lead_id FROM claimed))
        AND (is_due OR (lead_id IN (SELECT lead_id FROM claimed WHERE by_state)) IS NOT TRUE)
),
seen AS MATERIALIZED (
    SELECT xmin::text AS version FROM ops.cabinet_lead_recovery_audit
    WHERE lead_id = ANY(ARRAY(SELECT lead_id FROM claimed))
    UNION
    SELECT xmin::text FROM ops.cabinet_recovery_exception
    WHERE lead_id = ANY(ARRAY(SELECT lead_id FROM claimed))
),
linked AS (
    INSERT INTO canon.identity_links AS link (
        person_key, source_table, source_pk, snapshot_date, match_rule, match_score, confidence_level, evidence,
        linked_at
    )
    SELECT
        person_key, 'module_ct_cabinet_leads', lead_id, COALESCE(lead_created_at, now()), 'cabinet_recovery', 95,
        'HIGH',
        jsonb_strip_nulls(jsonb_build_object('job_id', job_id, 'seen', link_version)),
        now()
    FROM decided
    WHERE link_action IS NOT NULL
    ORDER BY lead_id
    ON CONFLICT (source_table, source_pk) DO UPDATE SET
        person_key = EXCLUDED.person_key,
        match_rule = EXCLUDED.match_rule,
        match_score = EXCLUDED.match_score,
        confidence_level = EXCLUDED.confidence_level,
        linked_at = EXCLUDED.linked_at,
        evidence = (EXCLUDED.evidence - 'seen') || jsonb_build_object('previous', jsonb_build_object(
            'person_key', link.person_key,
            'match_rule', link.match_rule,
            'match_score', link.match_score,
            'confidence_level', link.confidence_level,
            'linked_at', link.linked_at,
            'evidence',
            CASE jsonb_typeof(link.evidence) WHEN 'object' THEN link.evidence - 'previous' ELSE link.evidence END
        ))
    WHERE link.xmin::text = EXCLUDED.evidence ->> 'seen'
    RETURNING link.source_pk::text AS lead_id
),
standing AS MATERIALIZED (
    SELECT
        *,
        lead_id IN (SELECT lead_id FROM linked) AS link_written,
        link_action IS NULL OR lead_id IN (SELECT lead_id FROM linked) AS link_stands
    FROM decided
),
contended AS MATERIALIZED (
    SELECT
        *,
        link_stands AND origin_action IS NOT NULL AS is_taker,
        (link_stands AND origin_tag = 'cabinet_lead' AND origin_source_id = lead_id) IS TRUE AS is_holder
    FROM standing
),
ranked AS MATERIALIZED (
    SELECT
        *,
        -- One person, one origin: the lead that has it keeps it; of those that would take it the earlier wins.
        CASE WHEN is_taker THEN first_value(lead_id) OVER rivals END AS winner,
        is_taker AND first_value(is_holder) OVER rivals AS is_held
    FROM contended
    WINDOW rivals AS (
        PARTITION BY person_key
        ORDER BY is_holder DESC, is_taker DESC, lead_created_at ASC NULLS LAST, lead_id COLLATE "C" ASC
    )
),
originated AS (
    INSERT INTO canon.identity_origin AS origin (
        person_key, origin_tag, origin_source_id, origin_confidence, origin_created_at, evidence, decided_by,
        decided_at, resolution_status, created_at, updated_at
    )
    SELECT
        person_key, 'cabinet_lead', lead_id, 95,
        COALESCE(lead_created_at, CASE WHEN NOT link_written THEN linked_at END, now()),
        CASE WHEN origin_action = 'create' THEN '{"recovered_by": "cabinet_recovery"}'::jsonb ELSE
            jsonb_build_object('recovered_by', 'cabinet_recovery', 'seen', origin_version,
                'replaced', jsonb_build_object(
                    'origin_tag', origin_tag,
                    'origin_source_id', origin_source_id,
                    'resolution_status', origin_resolution_status,
                    'decided_by', origin_decided_by
                )
            )
        END,
        'system', now(), 'resolved_auto', now(), now()
    FROM ranked
    WHERE lead_id = winner
    ORDER BY person_key
    ON CONFLICT (person_key) DO UPDATE SET
        origin_tag = EXCLUDED.origin_tag,
        origin_source_id = EXCLUDED.origin_source_id,
        origin_confidence = EXCLUDED.origin_confidence,
        origin_created_at = EXCLUDED.origin_created_at,
        decided_by = EXCLUDED.decided_by,
        decided_at = EXCLUDED.decided_at,
        resolution_status = EXCLUDED.resolution_status,
        updated_at = EXCLUDED.updated_at,
        evidence = jsonb_set(EXCLUDED.evidence - 'seen', '{replaced,evidence}', COALESCE(
            CASE jsonb_typeof(origin.evidence)
                WHEN 'object' THEN origin.evidence - 'replaced' ELSE origin.evidence
            END,
            'null'
        ))
    WHERE origin.xmin::text = EXCLUDED.evidence ->> 'seen'
    RETURNING origin.person_key, origin.origin_source_id
),
resolved AS MATERIALIZED (
    SELECT
        lead_id,
        person_key,
        method,
        match_waits,
        CASE WHEN link_written THEN link_action END AS link,
        CASE WHEN lead_id = winner THEN origin_action END AS origin,
        CASE
            WHEN NOT link_stands THEN NULL
            WHEN is_taker AND NOT is_held AND person_key NOT IN (SELECT person_key FROM originated) THEN NULL
            WHEN winner <> lead_id THEN 'origin_held'
            ELSE outcome
        END AS outcome,
        CASE
            WHEN winner <> lead_id THEN 'the origin of its person belongs to lead ' || left(winner, 100)
            ELSE reason
        END AS reason
    FROM ranked
    UNION ALL
    SELECT
        lead_id, NULL, NULL, COALESCE(newest_match = 'matching_job', false), NULL, NULL,
        'unknown_lead', 'no such lead yet'
    FROM claimed
    WHERE (lead_id IN (SELECT lead_id FROM decided)) IS NOT TRUE AND NOT by_state
),
recorded AS MATERIALIZED (
    SELECT
        *,
        CASE
            WHEN match_waits AND outcome <> 'unknown_lead' THEN 'unknown_person'
            WHEN outcome NOT IN ('recovered', 'unchanged') THEN outcome
        END AS recorded_outcome
    FROM resolved
),
audited AS (
    INSERT INTO ops.cabinet_lead_recovery_audit AS audit (
        lead_id, first_recovered_at, last_recovered_at, recovered_person_key, recovered_by, recovery_method,
        updated_at
    )
    SELECT lead_id, now(), now(), person_key, 'system', method, now()
    FROM recorded
    WHERE outcome = 'recovered'
    ORDER BY lead_id
    ON CONFLICT (lead_id) DO UPDATE SET
        last_recovered_at = EXCLUDED.last_recovered_at,
        recovered_person_key = EXCLUDED.recovered_person_key,
        recovered_by = EXCLUDED.recovered_by,
        recovery_method = EXCLUDED.recovery_method,
        updated_at = EXCLUDED.updated_at
    WHERE audit.xmin::text = ANY(ARRAY(SELECT version FROM seen))
    -- A row that this statement made has no xmax.
    RETURNING audit.lead_id::text AS lead_id, audit.xmax = 0 AS is_new
),
excepted AS (
    INSERT INTO ops.cabinet_recovery_exception AS exception (lead_id, outcome, message, match_waits)
    SELECT lead_id, recorded_outcome, reason, match_waits
    FROM recorded
    WHERE recorded_outcome IS NOT NULL
    ORDER BY lead_id
    ON CONFLICT (lead_id) DO UPDATE SET
        outcome = EXCLUDED.outcome,
        message = EXCLUDED.message,
        match_waits = EXCLUDED.match_waits,
        sqlstate = NULL,
        attempts = 0,
        failed_events = 0,
        next_attempt_at = NULL,
        parked_at = NULL,
        first_seen_at = CASE WHEN exception.resolved_at IS NULL THEN exception.first_seen_at ELSE now() END,
        last_seen_at = now(),
        resolved_at = NULL
    WHERE exception.xmin::text = ANY(ARRAY(SELECT version FROM seen))
    RETURNING exception.lead_id
),
concluded AS MATERIALIZED (
    SELECT
        lead_id,
        reason,
        method,
        link,
        origin,
        match_waits,
        CASE
            WHEN outcome = 'recovered' AND lead_id NOT IN (SELECT lead_id FROM audited) THEN NULL
            WHEN recorded_outcome IS NOT NULL AND lead_id NOT IN (SELECT lead_id FROM excepted) THEN NULL
            ELSE outcome
        END AS outcome
    FROM recorded
),
cleared AS (
    UPDATE ops.cabinet_recovery_exception
    SET resolved_at = now(), match_waits = false
    WHERE resolved_at IS NULL
        AND lead_id = ANY(ARRAY(
            SELECT lead_id FROM concluded WHERE outcome IN ('recovered', 'unchanged') AND NOT match_waits
        ))
        AND xmin::text = ANY(ARRAY(SELECT version FROM seen))
),
settled AS (
    DELETE FROM ops.cabinet_recovery_outbox
    WHERE lead_id = ANY(ARRAY(SELECT lead_id FROM concluded WHERE outcome IS NOT NULL))
        AND (event_id IN (SELECT unnest(event_ids) FROM claimed)) IS TRUE
)
SELECT
    lead_id,
    outcome,
    reason,
    method,
    link,
    origin,
    CASE
        WHEN lead_id IN (SELECT lead_id FROM audited WHERE is_new) THEN 'create'
        WHEN lead_id IN (SELECT lead_id FROM audited) THEN 'update'
    END AS audit,
    EXTRACT(EPOCH FROM clock_timestamp())::float8 AS recovered_at
FROM concluded
"""
