"""How a migration runs its frozen SQL: whole files, and gently where others use what is locked.

Each of these functions writes to the script instead where a script is asked for (`consumer migrate --sql`).
"""

import logging
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from alembic import op
from psycopg.errors import LockNotAvailable

SQL = Path(__file__).parent / "sql"
LOCK_TIMEOUT_MS = 100
LOCK_ATTEMPTS = 100
PAUSE_SECONDS = 0.5
TOLD_EVERY_ATTEMPTS = 10  # five seconds or so
WATCH_SECONDS = 2.0

log = logging.getLogger("alembic.cabinet_recovery")

# Who they are in their own words, and no statement of theirs: that may hold anything.
_BACKENDS = """
    WITH backend AS (
        SELECT
            pid,
            xact_start,
            'backend ' || pid || ' (' || concat_ws(
                ', ', COALESCE(NULLIF(application_name, ''), backend_type),
                state || ', in a transaction of ' || round(EXTRACT(EPOCH FROM clock_timestamp() - xact_start)) || ' s'
            ) || ')' AS in_words
        FROM pg_stat_activity
        WHERE pid <> pg_backend_pid()
    )
"""
_HOLDER = sa.text(f"""{_BACKENDS}
    SELECT in_words FROM backend
    WHERE pid IN (
        SELECT pid FROM pg_locks
        WHERE granted
            AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
            AND relation = to_regclass(:relation)
            AND (mode NOT IN ('AccessShareLock', 'RowShareLock') OR :is_exclusive)
    )
    ORDER BY xact_start
    LIMIT 1
""")  # noqa: S608 # all of it is here
_BLOCKER = sa.text(f"""{_BACKENDS}
    SELECT in_words FROM backend WHERE pid = ANY(pg_blocking_pids(:pid)) ORDER BY xact_start LIMIT 1
""")  # noqa: S608 # all of it is here


class HostTableBusy(RuntimeError):
    """A lock on one of the host's tables could not be had; nothing is half done, migrating again goes on."""


def frozen(name: str) -> str:
    return (SQL / f"{name}.sql").read_text(encoding="utf-8")


def is_script() -> bool:
    """Whether the SQL is written down instead of being run."""
    return bool(op.get_context().as_sql)


def run(sql: str) -> None:
    """Run any number of statements as they stand: no parameters, so that `:` and `%` are plain text."""
    if is_script():
        sql = sql.rstrip()
        op.get_context().impl.static_output(sql if sql.endswith((";", "\\gexec")) else f"{sql};")
    else:
        op.get_bind().execution_options(no_parameters=True).exec_driver_sql(sql)


def run_when_unlocked(sql: str) -> None:
    """Run `sql` as one transaction of its own that waits at most LOCK_TIMEOUT_MS for a lock at a time.

    Whoever waits for a table lock makes all who come later wait as well: so many short attempts, not one long.
    Call it inside `autocommit_block()`. Raises HostTableBusy after about a minute; the log says who has the lock.
    """
    if is_script():
        run(_retrying(sql))
        return
    for attempt in range(LOCK_ATTEMPTS):
        try:
            run(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS};\n{sql}")
        except sa.exc.OperationalError as error:
            if not isinstance(error.orig, LockNotAvailable):
                raise
            if attempt % TOLD_EVERY_ATTEMPTS == 0:
                log.info("%s; trying again", _busy(sql))
            time.sleep(PAUSE_SECONDS)
        else:
            return
    raise HostTableBusy(f"{_busy(sql)} and stayed locked: end the long transaction on it, then repeat")


def _busy(sql: str) -> str:
    """What is locked, and by whom."""
    for relation in dict.fromkeys(re.findall(r"\b(?:ON|VIEW|TABLE|EXISTS) ((?:public|canon|ops)\.\w+)", sql)):
        is_exclusive = re.search(r"\bDROP\b|\bVIEW\b", sql) is not None
        if holder := op.get_bind().scalar(_HOLDER, {"relation": relation, "is_exclusive": is_exclusive}):
            return f"{relation} is locked by {holder}"
    return "a host table is locked by a short transaction"


def _retrying(sql: str) -> str:
    return f"""DO $retrying$
BEGIN
    FOR attempt IN 1..{LOCK_ATTEMPTS} LOOP
        BEGIN
            SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS};
            EXECUTE $statements$
{sql.rstrip()}
$statements$;
            RETURN;
        EXCEPTION WHEN lock_not_available THEN
            RAISE NOTICE 'a host table is locked; trying again';
        END;
        COMMIT;
        PERFORM pg_sleep({PAUSE_SECONDS});
    END LOOP;
    RAISE EXCEPTION 'a host table stayed locked: end the long transaction on it, then repeat';
END
$retrying$;"""


@contextmanager
def telling_what_is_waited_for() -> Iterator[None]:
    """Log, every few seconds, which transaction a statement in the block waits for."""
    if is_script():
        yield
        return
    over = threading.Event()
    pid = op.get_bind().scalar(sa.text("SELECT pg_backend_pid()"))
    watching = threading.Thread(target=_watch, args=(op.get_bind().engine, pid, over), daemon=True)
    watching.start()
    try:
        yield
    finally:
        over.set()
        watching.join()


def _watch(engine: sa.Engine, pid: int, over: threading.Event) -> None:
    told = None
    try:
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            while not over.wait(WATCH_SECONDS):
                blocker = connection.scalar(_BLOCKER, {"pid": pid})
                if blocker and blocker.split(", in a transaction")[0] != told:
                    log.info("waiting for the end of %s; it is in nobody's way meanwhile", blocker)
                    told = blocker.split(", in a transaction")[0]
    except sa.exc.DBAPIError as error:
        log.info("who is waited for cannot be told: %s", error.orig)
