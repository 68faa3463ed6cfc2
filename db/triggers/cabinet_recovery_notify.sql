-- cabinet_recovery_notify: ring for the leads of one statement, cheaply and without ever failing.
--
-- Called by: the four trigger functions, in the matching engine's transaction, for statements of many leads; for few
--            they do the same by themselves, which is faster
-- Notifies:  cabinet_recovery, payload = lead_id; a single '' ("sweep soon") for more than 200 leads, and in place
--            of an id that is no valid payload
-- Silent:    in mode 'off' (a two-phase commit cannot NOTIFY), and while the server's queue is more than half full
--            (a full queue fails the commit of everybody who notifies): the outbox has the events all the same

CREATE OR REPLACE FUNCTION ops.cabinet_recovery_notify(lead_ids text[]) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    IF pg_notification_queue_usage() > 0.5
        OR EXISTS (SELECT FROM ops.cabinet_recovery_settings WHERE notify_mode = 'off')
    THEN
        RETURN;
    END IF;
    IF cardinality(lead_ids) > 200 THEN
        PERFORM pg_notify('cabinet_recovery', '');
        RETURN;
    END IF;
    PERFORM pg_notify('cabinet_recovery', CASE WHEN octet_length(lead_id) <= 7999 THEN lead_id ELSE '' END)
    FROM unnest(lead_ids) AS lead_id;
END
$$;

REVOKE ALL ON FUNCTION ops.cabinet_recovery_notify(text[]) FROM PUBLIC;
