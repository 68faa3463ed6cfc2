"""Alembic's entry: connects, makes sure of one migrator at a time, runs what is due, or writes it down as a script.

The address comes from `consumer migrate`, or from DATABASE_URL when `alembic` is called by hand. The host runs
its own Alembic in this database: our version table has another name and stands in another schema.
"""

import logging
import os
import re
import time
from pathlib import Path

import psycopg
import sqlalchemy as sa
from alembic import context

VERSION_TABLE = "cabinet_recovery_alembic_version"
ONE_MIGRATOR = 7_214_614_114  # any number that nobody else uses as an advisory lock
TOLD_EVERY_SECONDS = 5

# A host may give its roles short timeouts; building an index takes as long as it takes.
NO_TIMEOUTS = """
SELECT set_config(name, '0', false)
FROM pg_settings
WHERE name IN (
    'statement_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout', 'idle_session_timeout',
    'transaction_timeout'
)
"""
MIGRATOR_AT_WORK = sa.text("""
    SELECT pid FROM pg_locks
    WHERE locktype = 'advisory' AND granted AND objsubid = 1
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND (classid::bigint << 32) + objid::bigint = :number
    LIMIT 1
""")

log = logging.getLogger("alembic.cabinet_recovery")


def connect() -> psycopg.Connection:
    address = context.config.attributes.get("url") or os.environ.get("DATABASE_URL")
    if not address:
        raise SystemExit("DATABASE_URL is not set: give the address of the database to migrate")
    # What a SQLAlchemy host calls its driver is nothing to libpq.
    connection = psycopg.connect(re.sub(r"^postgres(ql)?(\+\w+)?://", "postgresql://", address))
    connection.add_notice_handler(pass_on)
    connection.execute(NO_TIMEOUTS)
    connection.commit()
    return connection


def pass_on(notice: psycopg.errors.Diagnostic) -> None:
    if notice.severity_nonlocalized == "WARNING":
        log.warning("%s", notice.message_primary)


def wait_for_other_migrators(connection: sa.Connection) -> None:
    # Polled, because a session that waits inside a statement holds a snapshot, and the other migrator's
    # CREATE INDEX CONCURRENTLY waits for snapshots.
    told_at = float("-inf")
    while not connection.scalar(sa.func.pg_try_advisory_lock(ONE_MIGRATOR).select()):
        if time.monotonic() - told_at > TOLD_EVERY_SECONDS:
            at_work = connection.scalar(MIGRATOR_AT_WORK, {"number": ONE_MIGRATOR})
            log.info("waiting for another migrator, backend %s; one that was killed ends its statement first", at_work)
            told_at = time.monotonic()
        connection.commit()
        time.sleep(0.2)


def run() -> None:
    engine = sa.create_engine("postgresql+psycopg://", creator=connect, poolclass=sa.NullPool)
    with engine.connect() as connection:
        wait_for_other_migrators(connection)
        if connection.scalar(sa.text("SELECT to_regnamespace('ops') IS NULL")):
            connection.execute(sa.text("CREATE SCHEMA ops"))
        connection.commit()
        context.configure(
            connection=connection,
            version_table=VERSION_TABLE,
            version_table_schema="ops",
            transaction_per_migration=True,
        )
        with context.begin_transaction():
            context.run_migrations()


def write_script() -> None:
    """Write what is due from the revision that Alembic was told, for psql."""
    context.configure(
        dialect_name="postgresql",
        version_table=VERSION_TABLE,
        version_table_schema="ops",
        transaction_per_migration=True,
    )
    prologue = (Path(__file__).parent / "script_prologue.sql").read_text(encoding="utf-8")
    context.get_context().impl.static_output(
        prologue.replace("one_migrator", str(ONE_MIGRATOR)).replace(
            "starting_revision", str(context.get_starting_revision_argument() or "")
        )
    )
    with context.begin_transaction():
        context.run_migrations()


write_script() if context.is_offline_mode() else run()
