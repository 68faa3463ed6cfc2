-- Makes a host-named view anew where it is still as we made it; what the host has made since is the host's.
--
-- The migration fills in the view's name and the file that makes it.

DO $renew$
DECLARE
    path CONSTANT text := current_setting('search_path');
    made record;
BEGIN
    -- Nothing in the path, so that a definition qualifies every name.
    PERFORM set_config('search_path', 'pg_catalog', true);
    SELECT array_to_string(view.reloptions, ', ') AS options
    INTO made
    FROM pg_class AS view
    CROSS JOIN ops.cabinet_recovery_settings AS settings
    WHERE view.oid = to_regclass('ops.renewed_view')
        AND pg_get_viewdef(view.oid) = settings.replaced_views -> 'renewed_view' ->> 'ours';

    IF NOT FOUND THEN
        RAISE WARNING 'ops.renewed_view is not as we made it and is left as it is';
        RETURN;
    END IF;
    EXECUTE $view$
definition_of_ours
$view$;
    -- Whoever replaces a view without naming its options resets them.
    IF made.options IS NOT NULL THEN
        EXECUTE 'ALTER VIEW ops.renewed_view SET (' || made.options || ')';
    END IF;
    UPDATE ops.cabinet_recovery_settings
    SET replaced_views = jsonb_set(
        replaced_views, '{renewed_view,ours}', to_jsonb(pg_get_viewdef('ops.renewed_view'::regclass))
    );
    PERFORM set_config('search_path', path, true);
END
$renew$;
