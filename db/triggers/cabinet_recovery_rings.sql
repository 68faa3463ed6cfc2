-- cabinet_recovery_rings: whether a match is to be notified, or a keeper that is awake will find it by itself.
--
-- Called by: the four trigger functions; it is inlined there
-- Open to:   everybody, for it reads nothing: the trigger functions must never lack the right to call it
-- Takes:     what stands in ops.cabinet_recovery_settings
-- Locks:     in mode 'adaptive', while a keeper is awake, the sleep lock, shared and for the transaction: so a keeper
--            that has it alone knows that whoever was silent has ended. It is tried, never waited for: a keeper that
--            sleeps holds it, and then we ring

CREATE OR REPLACE FUNCTION ops.cabinet_recovery_rings(notify_mode text, awake_until timestamptz) RETURNS boolean
LANGUAGE sql AS $$
    SELECT CASE notify_mode
        WHEN 'on' THEN TRUE
        WHEN 'adaptive' THEN NOT (
            COALESCE(awake_until > pg_catalog.clock_timestamp(), FALSE)
            AND pg_catalog.pg_try_advisory_xact_lock_shared(7214614116)
        )
        ELSE FALSE
    END
$$;
