-- cabinet_recovery_link_updated: a cabinet lead's link that names another person becomes an event.
--
-- On:       canon.identity_links, after update, per statement
-- Writes:   ops.cabinet_recovery_outbox, one row per cabinet lead of the statement
-- Notifies: cabinet_recovery, payload = lead_id; a single '' ("sweep soon") for more than 200 leads, and in place
--           of an id that is no valid payload
-- Silent:   as cabinet_recovery_notify is, and where cabinet_recovery_rings says so
-- Runs in:  the matching engine's transaction: it must neither wait nor fail
-- Skips:    our own writes, known by a mark that only the transaction which set it can carry

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
    WHERE ops.cabinet_recovery_rings(settings.notify_mode, settings.awake_until);
    RETURN NULL;
END
$$;
