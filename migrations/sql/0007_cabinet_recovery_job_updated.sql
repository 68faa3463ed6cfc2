CREATE OR REPLACE FUNCTION ops.cabinet_recovery_job_updated() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    events bigint;
BEGIN
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

    IF events > 200 THEN
        PERFORM ops.cabinet_recovery_notify(ARRAY['']);
    END IF;
    IF events NOT BETWEEN 1 AND 200 OR pg_notification_queue_usage() > 0.5 THEN
        RETURN NULL;
    END IF;
    -- What cabinet_recovery_notify does, in one statement: each that is begun costs the engine as much as a NOTIFY.
    PERFORM pg_notify('cabinet_recovery', CASE WHEN octet_length(changed.source_id) <= 7999 THEN changed.source_id ELSE '' END)
    FROM ops.cabinet_recovery_settings AS settings CROSS JOIN (
        SELECT source_id, matched_person_key FROM new_rows
        WHERE source_type = 'cabinet' AND source_id IS NOT NULL AND status = 'matched' AND matched_person_key IS NOT NULL
        EXCEPT
        SELECT source_id, matched_person_key FROM old_rows
        WHERE source_type = 'cabinet' AND source_id IS NOT NULL AND status = 'matched' AND matched_person_key IS NOT NULL
    ) AS changed
    WHERE settings.notify_mode <> 'off';
    RETURN NULL;
END
$$;
