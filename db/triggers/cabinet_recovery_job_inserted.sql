-- cabinet_recovery_job_inserted: a cabinet lead's job that is born matched becomes an event.
--
-- On:       ops.identity_matching_jobs, after insert, per statement
-- Writes:   ops.cabinet_recovery_outbox, one row per cabinet lead of the statement
-- Notifies: cabinet_recovery, by cabinet_recovery_notify
-- Runs in:  the matching engine's transaction: it must neither wait nor fail
-- Skips:    our own writes, known by a mark that only the transaction which set it can carry

CREATE OR REPLACE FUNCTION ops.cabinet_recovery_job_inserted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    lead_ids text[];
BEGIN
    WITH matched (lead_id) AS (
        SELECT source_id
        FROM new_rows
        WHERE source_type = 'cabinet' AND source_id IS NOT NULL AND status = 'matched' AND matched_person_key IS NOT NULL
    ), event AS (
        INSERT INTO ops.cabinet_recovery_outbox (lead_id, source)
        SELECT lead_id, 'matching_job' FROM matched
        RETURNING lead_id
    )
    SELECT array_agg(lead_id) INTO lead_ids FROM event;

    IF lead_ids IS NOT NULL THEN
        PERFORM ops.cabinet_recovery_notify(lead_ids);
    END IF;
    RETURN NULL;
END
$$;

REVOKE ALL ON FUNCTION ops.cabinet_recovery_job_inserted() FROM PUBLIC;

CREATE OR REPLACE TRIGGER cabinet_recovery_job_inserted
AFTER INSERT ON ops.identity_matching_jobs
REFERENCING NEW TABLE AS new_rows
FOR EACH STATEMENT
WHEN (current_setting('cabinet_recovery.own', TRUE) IS DISTINCT FROM pg_current_xact_id_if_assigned()::text)
EXECUTE FUNCTION ops.cabinet_recovery_job_inserted();
