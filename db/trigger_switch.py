"""The triggers on the host's tables: what they are, and how they are switched."""

import time
from dataclasses import dataclass
from typing import Literal

import sqlalchemy as sa
from psycopg.errors import LockNotAvailable

from db.connect import TableBusy

TRIGGERS = {
    "canon.identity_links": ("cabinet_recovery_link_inserted", "cabinet_recovery_link_updated"),
    "ops.identity_matching_jobs": ("cabinet_recovery_job_inserted", "cabinet_recovery_job_updated"),
}
LOCK_TIMEOUT_MS = 100
LOCK_ATTEMPTS = 100
PAUSE_SECONDS = 0.5

STATES = sa.text("""
    SELECT tgname, tgenabled IN ('O', 'A') AS enabled
    FROM pg_trigger
    WHERE tgrelid = to_regclass(:table) AND NOT tgisinternal
""")


@dataclass(frozen=True)
class TriggerState:
    name: str
    table: str
    state: Literal["enabled", "disabled", "missing"]


def read_states(engine: sa.Engine) -> list[TriggerState]:
    with engine.connect() as connection:
        found = {
            (table, name): enabled
            for table in TRIGGERS
            for name, enabled in connection.execute(STATES, {"table": table})
        }
    words: dict[bool | None, Literal["enabled", "disabled", "missing"]] = {
        True: "enabled",
        False: "disabled",
        None: "missing",
    }
    return [
        TriggerState(name, table, words[found.get((table, name))])
        for table, names in TRIGGERS.items()
        for name in names
    ]


def switch(engine: sa.Engine, word: Literal["ENABLE", "DISABLE"]) -> None:
    """Switch all triggers that there are, a table at a time.

    Each takes a short lock on its table, for which it waits a tenth of a second at a time, so that the engine's
    writes do not queue up behind it. Raises TableBusy after about a minute, and SQLAlchemy's ProgrammingError where
    the role does not own the tables.
    """
    present = {one.name for one in read_states(engine) if one.state != "missing"}
    for table, names in TRIGGERS.items():
        actions = ", ".join(f"{word} TRIGGER {name}" for name in names if name in present)
        if not actions:
            continue
        _run_when_unlocked(engine, table, f"ALTER TABLE {table} {actions}")


def _run_when_unlocked(engine: sa.Engine, table: str, statement: str) -> None:
    for _ in range(LOCK_ATTEMPTS):
        try:
            with engine.begin() as connection:
                connection.exec_driver_sql(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}")
                connection.exec_driver_sql(statement)
        except sa.exc.OperationalError as error:
            if not isinstance(error.orig, LockNotAvailable):
                raise
            time.sleep(PAUSE_SECONDS)
        else:
            return
    raise TableBusy(f"{table} stayed locked: end the long transaction on it, then try again")
