"""Alembic's entry: connects, makes sure of one migrator at a time, runs what is due.

The address comes from `consumer migrate`, or from DATABASE_URL when `alembic` is called by hand. The host runs
its own Alembic in this database: our version table has another name and stands in another schema.
"""

import os
import re
import time

import psycopg
import sqlalchemy as sa
from alembic import context

VERSION_TABLE = "cabinet_recovery_alembic_version"
ONE_MIGRATOR = 7_214_614_114  # any number that nobody else uses as an advisory lock


def connect() -> psycopg.Connection:
    address = context.config.attributes.get("url") or os.environ.get("DATABASE_URL")
    if not address:
        raise SystemExit("DATABASE_URL is not set: give the address of the database to migrate")
    # What a SQLAlchemy host calls its driver is nothing to libpq.
    return psycopg.connect(re.sub(r"^postgres(ql)?(\+\w+)?://", "postgresql://", address))


def wait_for_other_migrators(connection: sa.Connection) -> None:
    # Polled, because a session that waits inside a statement holds a snapshot, and the other migrator's
    # CREATE INDEX CONCURRENTLY waits for snapshots.
    while not connection.scalar(sa.func.pg_try_advisory_lock(ONE_MIGRATOR).select()):
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


run()
