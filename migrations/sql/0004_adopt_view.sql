-- Creates a host-named view, or replaces it and remembers what it was; one that does not fit is left alone.
--
-- The migration fills in the view's name and the file that makes it.

DO $adopt$
DECLARE
    path CONSTANT text := current_setting('search_path');
    columns CONSTANT text := CASE 'adopted_view'
        WHEN 'v_cabinet_lead_identity_effective' THEN
            'lead_id lead_date person_key_effective identity_link_source identity_effective'
        ELSE
            'lead_id lead_date window_end_14d person_key_effective identity_effective origin_ok has_claim '
            'claim_status_bucket recovered_at recovered_within_14d impact_bucket'
    END;
    theirs record;
BEGIN
    -- Nothing in the path, so that a definition qualifies every name.
    PERFORM set_config('search_path', 'pg_catalog', true);
    SELECT
        pg_get_viewdef(view.oid) AS definition,
        array_to_string(view.reloptions, ', ') AS options,
        (
            SELECT string_agg(attname, ' ' ORDER BY attnum)
            FROM pg_attribute
            WHERE attrelid = view.oid AND attnum > 0 AND NOT attisdropped
        ) AS columns
    INTO theirs
    FROM pg_class AS view
    WHERE view.oid = to_regclass('ops.adopted_view');

    IF theirs.definition = (
        SELECT replaced_views -> 'adopted_view' ->> 'ours' FROM ops.cabinet_recovery_settings
    ) THEN
        RETURN; -- ours already, from a run that was cut off: what was theirs is remembered
    END IF;
    IF theirs.columns <> columns THEN
        RAISE WARNING 'ops.adopted_view has columns of its own and is left as it is';
        RETURN;
    END IF;
    BEGIN
        EXECUTE $view$
definition_of_ours
$view$;
    EXCEPTION
        WHEN invalid_table_definition OR wrong_object_type THEN -- a column of another type, or no view
            RAISE WARNING 'ops.adopted_view has columns of its own and is left as it is';
            RETURN;
        WHEN insufficient_privilege THEN
            IF theirs.columns IS NULL THEN
                RAISE;
            END IF;
            RAISE WARNING 'ops.adopted_view belongs to another role and is left as it is';
            RETURN;
    END;
    -- Whoever replaces a view without naming its options resets them.
    IF theirs.options IS NOT NULL THEN
        EXECUTE 'ALTER VIEW ops.adopted_view SET (' || theirs.options || ')';
    END IF;
    UPDATE ops.cabinet_recovery_settings
    SET replaced_views = replaced_views || jsonb_build_object('adopted_view', jsonb_build_object(
        'ours', pg_get_viewdef('ops.adopted_view'::regclass), 'theirs', theirs.definition, 'options', theirs.options
    ));
    PERFORM set_config('search_path', path, true);
END
$adopt$;
