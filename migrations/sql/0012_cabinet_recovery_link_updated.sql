-- cabinet_recovery_link_updated: a cabinet lead's link that names another person becomes an event.
--
-- On:       canon.identity_links, after update, per statement
-- Writes:   ops.cabinet_recovery_outbox, one row per cabinet lead of the statement
-- Notifies: cabinet_recovery, payload = lead_id; a single '' ("sweep soon") for more than 200 leads, and in place
--           of an id that is no valid payload
-- Silent:   where cabinet_recovery_rings says so (for many leads: in mode 'off' alone), and while the server's queue is
--           more than half full (a full one fails the commit of everybody who notifies): the outbox has the events
-- Runs in:  the matching engine's transaction: it must neither wait nor fail
-- Skips:    our own writes, known by a mark that only the transaction which set it can carry

CREATE OR REPLACE FUNCTION ops.cabinet_recovery_link_updated() RETURNS trigger
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
    SELECT changed.source_pk, 'identity_link'
    FROM (
        SELECT source_pk, person_key FROM new_rows
        WHERE source_table = 'module_ct_cabinet_leads'
        EXCEPT
        SELECT source_pk, person_key FROM old_rows
        WHERE source_table = 'module_ct_cabinet_leads'
    ) AS changed;
    GET DIAGNOSTICS events = ROW_COUNT;

    IF events = 0 OR pg_notification_queue_usage() > 0.5 THEN
        RETURN NULL;
    END IF;
    IF events > 200 THEN
        PERFORM pg_notify('cabinet_recovery', '') FROM ops.cabinet_recovery_settings WHERE notify_mode <> 'off';
        RETURN NULL;
    END IF;
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

REVOKE ALL ON FUNCTION ops.cabinet_recovery_link_updated() FROM PUBLIC;

CREATE OR REPLACE TRIGGER cabinet_recovery_link_updated
AFTER UPDATE ON canon.identity_links
REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
FOR EACH STATEMENT
EXECUTE FUNCTION ops.cabinet_recovery_link_updated();
