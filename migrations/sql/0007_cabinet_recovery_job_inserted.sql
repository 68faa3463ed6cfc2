CREATE OR REPLACE FUNCTION ops.cabinet_recovery_job_inserted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    events bigint;
BEGIN
    INSERT INTO ops.cabinet_recovery_outbox (lead_id, source)
    SELECT source_id, 'matching_job' FROM new_rows
    WHERE source_type = 'cabinet' AND source_id IS NOT NULL AND status = 'matched' AND matched_person_key IS NOT NULL;
    GET DIAGNOSTICS events = ROW_COUNT;

    IF events > 200 THEN
        PERFORM ops.cabinet_recovery_notify(ARRAY['']);
    END IF;
    IF events NOT BETWEEN 1 AND 200 OR pg_notification_queue_usage() > 0.5 THEN
        RETURN NULL;
    END IF;
    -- What cabinet_recovery_notify does, in one statement: each that is begun costs the engine as much as a NOTIFY.
    PERFORM pg_notify('cabinet_recovery', CASE WHEN octet_length(new_rows.source_id) <= 7999 THEN new_rows.source_id ELSE '' END)
    FROM ops.cabinet_recovery_settings AS settings CROSS JOIN new_rows
    WHERE settings.notify_mode <> 'off'
        AND source_type = 'cabinet' AND source_id IS NOT NULL AND status = 'matched' AND matched_person_key IS NOT NULL;
    RETURN NULL;
END
$$;
