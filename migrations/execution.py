"""How a migration runs its frozen SQL: whole files, and gently where the host's tables are locked."""

import logging
import time
from pathlib import Path

import sqlalchemy as sa
from alembic import op
from psycopg.errors import LockNotAvailable

SQL = Path(__file__).parent / "sql"
LOCK_TIMEOUT_MS = 100
LOCK_ATTEMPTS = 100

log = logging.getLogger("alembic.cabinet_recovery")


class HostTableBusy(RuntimeError):
    """A lock on one of the host's tables could not be had; nothing is half done, migrating again goes on."""


def frozen(name: str) -> str:
    return (SQL / f"{name}.sql").read_text(encoding="utf-8")


def run(sql: str) -> None:
    """Run any number of statements as they stand: no parameters, so that `:` and `%` are plain text."""
    op.get_bind().execution_options(no_parameters=True).exec_driver_sql(sql)


def run_when_unlocked(sql: str) -> None:
    """Run `sql` as one transaction of its own that waits at most LOCK_TIMEOUT_MS for a lock at a time.

    Whoever waits for a table lock makes all who come later wait as well: so many short attempts, not one long.
    Call it inside `autocommit_block()`.
    """
    for _ in range(LOCK_ATTEMPTS):
        try:
            run(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS};\n{sql}")
        except sa.exc.OperationalError as error:
            if not isinstance(error.orig, LockNotAvailable):
                raise
            log.info("a host table is locked; trying again")
            time.sleep(0.5)
        else:
            return
    raise HostTableBusy("a host table stayed locked: end the long transaction on it, then migrate again")
