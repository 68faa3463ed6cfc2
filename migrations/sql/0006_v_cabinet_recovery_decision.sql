-- v_cabinet_recovery_decision: the rules of recovery, as what would be done for each lead now.
--
-- Grain:    one row per lead
-- Columns:  outcome (the one that the handler would report), reason (in words), person_key and method, link_action
--           (create, move, NULL) and origin_action (create, update, NULL): the writes that stand out; match_waits
--           (a new match names a person who is not in the registry yet); recorded_outcome (what the exception
--           table should say); is_due (something to write, in the host's tables or in ours); and what the decision
--           saw, with the versions of the rows, for the handler to check again when it writes
-- Requires: v_cabinet_recovery_identity
--
-- Each LIMIT 1 is a fence to the planner: it does not copy the subquery to every place that mentions its result, and
-- looks a table up by its key even where it believes it to be empty.

CREATE OR REPLACE VIEW ops.v_cabinet_recovery_decision AS
SELECT
    identity.lead_pk,
    identity.lead_id,
    identity.lead_created_at,
    identity.lead_date,
    identity.window_ends_at,
    chosen.person_key,
    CASE
        WHEN chosen.person_key IS NOT NULL
            THEN
                CASE WHEN chosen.link_action IS NULL THEN 'identity_link' ELSE 'matching_job' END
    END AS method,
    chosen.link_action,
    CASE verdict.outcome
        WHEN 'origin_free' THEN 'create'
        WHEN 'origin_replaceable' THEN 'update'
    END AS origin_action,
    final.outcome,
    CASE
        WHEN chosen.match_waits AND final.outcome <> 'unknown_person'
            THEN
                verdict.reason || '; its new match names a person who is not in the registry yet'
        ELSE verdict.reason
    END AS reason,
    chosen.match_waits,
    final.recorded_outcome,
    (
        chosen.link_action IS NOT NULL
        OR verdict.outcome IN ('origin_free', 'origin_replaceable')
        OR (
            exception.outcome <> 'failed'
            AND exception.outcome IS DISTINCT FROM COALESCE(final.recorded_outcome, 'none')
        )
    ) IS TRUE AS is_due,
    identity.job_id,
    identity.link_person_key,
    identity.linked_at,
    identity.link_version,
    origin.origin_tag::text AS origin_tag,
    origin.origin_source_id,
    origin.resolution_status::text AS origin_resolution_status,
    origin.decided_by::text AS origin_decided_by,
    origin.version AS origin_version
FROM ops.v_cabinet_recovery_identity AS identity
LEFT JOIN
    LATERAL (
        SELECT
            recorded.outcome,
            recorded.match_waits
        FROM ops.cabinet_recovery_exception AS recorded
        WHERE recorded.lead_id = identity.lead_id AND recorded.resolved_at IS NULL
        LIMIT 1
    ) AS exception
    ON TRUE
CROSS JOIN
    LATERAL (
        -- A job that names another person than the link counts only as a new match: an event newer than any of the
        -- link's, or one that had to wait for its lead or person.
        SELECT
            CASE
                WHEN identity.job_person_key <> identity.link_person_key
                    THEN
                        COALESCE(
                            (
                                SELECT event.source = 'matching_job'
                                FROM ops.cabinet_recovery_outbox AS event
                                WHERE
                                    event.lead_id = identity.lead_id
                                    AND event.source IN ('matching_job', 'identity_link')
                                ORDER BY event.event_id DESC
                                LIMIT 1
                            ),
                            exception.match_waits
                        )
            END IS TRUE AS supersedes
        LIMIT 1
    ) AS job
CROSS JOIN
    LATERAL (
        SELECT
            CASE
                WHEN identity.link_pk IS NULL OR (job.supersedes AND identity.job_person_known IS NOT NULL)
                    THEN identity.job_person_known
                ELSE identity.link_person_known
            END AS person_key,
            CASE
                WHEN identity.job_person_known IS NULL THEN NULL
                WHEN identity.link_pk IS NULL THEN 'create'
                WHEN job.supersedes THEN 'move'
            END AS link_action,
            job.supersedes AND identity.job_person_known IS NULL AS match_waits
        LIMIT 1
    ) AS chosen
LEFT JOIN
    LATERAL (
        SELECT
            found.person_key,
            found.origin_tag,
            found.origin_source_id,
            found.resolution_status,
            found.decided_by,
            found.xmin::text AS version
        FROM canon.identity_origin AS found
        WHERE found.person_key = chosen.person_key
        LIMIT 1
    ) AS origin
    ON TRUE
CROSS JOIN
    LATERAL (
        SELECT
            CASE
                WHEN chosen.person_key IS NULL
                    THEN
                        CASE
                            WHEN identity.link_pk IS NULL AND identity.job_person_key IS NULL THEN 'no_person_key'
                            ELSE 'unknown_person'
                        END
                WHEN origin.person_key IS NULL THEN 'origin_free'
                WHEN origin.origin_tag::text = 'cabinet_lead' AND origin.origin_source_id = identity.lead_id
                    THEN 'origin_ours'
                WHEN
                    origin.decided_by::text = 'manual'
                    OR origin.resolution_status::text IN ('resolved_manual', 'discarded', 'marked_legacy')
                    THEN 'origin_manual'
                WHEN origin.origin_tag::text <> 'cabinet_lead' THEN 'origin_replaceable'
                WHEN
                    -- Not a plain =, which would reach the links beside the lead: with a table that is believed to
                    -- be empty, one index then seems as good as another.
                    chosen.person_key = (
                        SELECT holder.person_key_effective
                        FROM ops.v_cabinet_recovery_identity AS holder
                        WHERE holder.lead_id = ANY(ARRAY[origin.origin_source_id])
                        LIMIT 1
                    )
                    THEN 'origin_held'
                ELSE 'origin_replaceable'
            END AS outcome
        LIMIT 1
    ) AS state
CROSS JOIN
    LATERAL (
        SELECT
            state.outcome,
            CASE state.outcome
                WHEN 'no_person_key' THEN 'no link and no matched job: the engine has not found its person'
                WHEN 'unknown_person' THEN 'its match names a person who is not in the registry yet'
                WHEN 'origin_manual' THEN 'the origin of its person was decided by hand, discarded or marked as legacy'
                WHEN 'origin_held'
                    THEN
                        'the origin of its person belongs to lead ' || LEFT(origin.origin_source_id, 100)
                WHEN 'origin_free' THEN 'its person had no origin'
                WHEN 'origin_replaceable'
                    THEN
                        'replaces the origin ' || origin.origin_tag::text || ' ' || LEFT(origin.origin_source_id, 100)
                WHEN 'origin_ours' THEN
                    CASE
                        WHEN chosen.link_action IS NULL THEN 'link and origin already stand'
                        ELSE 'the origin already stands, the link does not'
                    END
            END AS reason
    ) AS verdict
CROSS JOIN LATERAL (
    SELECT
        result.outcome,
        CASE
            WHEN chosen.match_waits THEN 'unknown_person'
            WHEN result.outcome NOT IN ('recovered', 'unchanged') THEN result.outcome
        END AS recorded_outcome
    FROM (
        SELECT CASE
            WHEN verdict.outcome IN ('origin_free', 'origin_replaceable') THEN 'recovered'
            WHEN verdict.outcome <> 'origin_ours' THEN verdict.outcome
            WHEN chosen.link_action IS NULL THEN 'unchanged'
            ELSE 'recovered'
        END AS outcome
    ) AS result
) AS final;
