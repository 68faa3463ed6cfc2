-- Puts the host's two views back as they were, and drops ours. What the host has made anew since is the host's.

DO $give_back$
DECLARE
    path CONSTANT text := current_setting('search_path');
    remembered jsonb;
    view text;
    made text[] := '{}';
BEGIN
    PERFORM set_config('search_path', 'pg_catalog', true);
    SELECT replaced_views INTO remembered FROM ops.cabinet_recovery_settings;
    FOREACH view IN ARRAY ARRAY['v_cabinet_lead_identity_effective', 'v_cabinet_identity_recovery_impact_14d'] LOOP
        CONTINUE WHEN (
            SELECT pg_get_viewdef(oid) = remembered -> view ->> 'ours'
            FROM pg_class
            WHERE oid = to_regclass('ops.' || view)
        ) IS NOT TRUE;
        IF remembered -> view ->> 'theirs' IS NULL THEN
            made := view || made;
            CONTINUE;
        END IF;
        BEGIN
            EXECUTE format('CREATE OR REPLACE VIEW ops.%I AS %s', view, remembered -> view ->> 'theirs');
        EXCEPTION WHEN syntax_error_or_access_rule_violation THEN
            RAISE EXCEPTION 'what ops.% was before cannot be put back (%): replace the view by hand, then repeat',
                view, SQLERRM;
        END;
        IF remembered -> view ->> 'options' IS NOT NULL THEN
            EXECUTE format('ALTER VIEW ops.%I SET (%s)', view, remembered -> view ->> 'options');
        END IF;
    END LOOP;

    FOREACH view IN ARRAY made || ARRAY[
        'v_cabinet_recovery_pending', 'v_cabinet_recovery_decision', 'v_cabinet_recovery_identity'
    ] LOOP
        EXECUTE format('DROP VIEW IF EXISTS ops.%I', view);
    END LOOP;
    PERFORM set_config('search_path', path, true);
END
$give_back$;
