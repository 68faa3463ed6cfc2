-- cabinet_recovery_job_updated: a cabinet lead's job that becomes matched, or matched to another, becomes an event.
--
-- On:       ops.identity_matching_jobs, after update, per statement
-- Writes:   ops.cabinet_recovery_outbox, one row per cabinet lead of the statement
-- Notifies: cabinet_recovery, payload = lead_id; a single '' ("sweep soon") for more than 200 leads, and in place
--           of an id that is no valid payload
-- Silent:   where cabinet_recovery_rings says so (for many leads: in mode 'off' alone), and while the server's queue is
--           more than half full (a full one fails the commit of everybody who notifies): the outbox has the events
-- Runs in:  the matching engine's transaction: it must neither wait nor fail
-- Skips:    our own writes, known by a mark that only the transaction which set it can carry

CREATE OR REPLACE FUNCTION ops.cabinet_recovery_job_updated() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    events bigint;
BEGIN
    -- Not as the trigger's WHEN, which the server parses anew for each statement: that takes five times as long.
    IF current_setting('cabinet_recovery.own', TRUE) IS NOT DISTINCT FROM pg_current_xact_id_if_assigned()::text THEN
        RETURN NULL;
    END IF;

    -- EXCEPT, not a join: the plan is kept from the first call, and a join planned for one row takes minutes
    -- for many.
    INSERT INTO ops.cabinet_recovery_outbox (lead_id, source)
    SELECT changed.source_id, 'matching_job'
    FROM (
        SELECT source_id, matched_person_key FROM new_rows
        WHERE source_type = 'cabinet' AND source_id IS NOT NULL AND status = 'matched' AND matched_person_key IS NOT NULL
        EXCEPT
        SELECT source_id, matched_person_key FROM old_rows
        WHERE source_type = 'cabinet' AND source_id IS NOT NULL AND status = 'matched' AND matched_person_key IS NOT NULL
    ) AS changed;
    GET DIAGNOSTICS events = ROW_COUNT;

    IF events = 0 OR pg_notification_queue_usage() > 0.5 THEN
        RETURN NULL;
    END IF;
    IF events > 200 THEN
        PERFORM pg_notify('cabinet_recovery', '') FROM ops.cabinet_recovery_settings WHERE notify_mode <> 'off';
        RETURN NULL;
    END IF;
    PERFORM pg_notify('cabinet_recovery', CASE WHEN octet_length(changed.source_id) <= 7999 THEN changed.source_id ELSE '' END)
    FROM ops.cabinet_recovery_settings AS settings CROSS JOIN (
        SELECT source_id, matched_person_key FROM new_rows
        WHERE source_type = 'cabinet' AND source_id IS NOT NULL AND status = 'matched' AND matched_person_key IS NOT NULL
        EXCEPT
        SELECT source_id, matched_person_key FROM old_rows
        WHERE source_type = 'cabinet' AND source_id IS NOT NULL AND status = 'matched' AND matched_person_key IS NOT NULL
    ) AS changed
    WHERE ops.cabinet_recovery_rings(settings.notify_mode, settings.awake_until);
    RETURN NULL;
END
$$;

REVOKE ALL ON FUNCTION ops.cabinet_recovery_job_updated() FROM PUBLIC;

CREATE OR REPLACE TRIGGER cabinet_recovery_job_updated
AFTER UPDATE ON ops.identity_matching_jobs
REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
FOR EACH STATEMENT
EXECUTE FUNCTION ops.cabinet_recovery_job_updated();
