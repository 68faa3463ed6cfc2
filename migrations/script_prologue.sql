SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;

-- One migrator at a time. Polled, because a session that waits inside a statement holds a snapshot, and the other's
-- CREATE INDEX CONCURRENTLY waits for snapshots.
DO $$
BEGIN
    WHILE NOT pg_try_advisory_lock(one_migrator) LOOP
        RAISE NOTICE 'waiting for another migrator';
        COMMIT;
        PERFORM pg_sleep(1);
    END LOOP;
END
$$;

-- The script is for the revision at which the schema stood when it was written.
DO $$
DECLARE
    found text;
BEGIN
    IF to_regnamespace('ops') IS NULL THEN
        CREATE SCHEMA ops;
    END IF;
    IF to_regclass('ops.cabinet_recovery_alembic_version') IS NOT NULL THEN
        EXECUTE 'SELECT max(version_num) FROM ops.cabinet_recovery_alembic_version' INTO found;
    END IF;
    IF COALESCE(found, '') <> 'starting_revision' THEN
        RAISE EXCEPTION 'the schema stands at % by now: write the script anew', COALESCE(found, 'its beginning');
    END IF;
    IF found IS NULL THEN
        DROP TABLE IF EXISTS ops.cabinet_recovery_alembic_version; -- empty; made anew below
    END IF;
END
$$;
