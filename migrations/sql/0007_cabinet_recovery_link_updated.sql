CREATE OR REPLACE FUNCTION ops.cabinet_recovery_link_updated() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    events bigint;
BEGIN
    -- EXCEPT, not a join: the plan is kept from the first call, and a join planned for one row takes minutes
    -- for many.
    INSERT INTO ops.cabinet_recovery_outbox (lead_id, source)
    SELECT changed.source_pk, 'identity_link'
    FROM (
        SELECT source_pk, person_key FROM new_rows
        WHERE source_table = 'module_ct_cabinet_leads'
        EXCEPT
        SELECT source_pk, person_key FROM old_rows
        WHERE source_table = 'module_ct_cabinet_leads'
    ) AS changed;
    GET DIAGNOSTICS events = ROW_COUNT;

    IF events > 200 THEN
        PERFORM ops.cabinet_recovery_notify(ARRAY['']);
    END IF;
    IF events NOT BETWEEN 1 AND 200 OR pg_notification_queue_usage() > 0.5 THEN
        RETURN NULL;
    END IF;
    -- What cabinet_recovery_notify does, in one statement: each that is begun costs the engine as much as a NOTIFY.
    PERFORM pg_notify('cabinet_recovery', CASE WHEN octet_length(changed.source_pk) <= 7999 THEN changed.source_pk ELSE '' END)
    FROM ops.cabinet_recovery_settings AS settings CROSS JOIN (
        SELECT source_pk, person_key FROM new_rows
        WHERE source_table = 'module_ct_cabinet_leads'
        EXCEPT
        SELECT source_pk, person_key FROM old_rows
        WHERE source_table = 'module_ct_cabinet_leads'
    ) AS changed
    WHERE settings.notify_mode <> 'off';
    RETURN NULL;
END
$$;
