"""SQLAlchemy engines for the commands that report and administer."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import sqlalchemy as sa

from db.connect import Address, ReadOnlyServer, refusal, require_revision, require_writable
from db.moments import read_every_moment

VERSION = sa.text("SELECT version_num FROM ops.cabinet_recovery_alembic_version")


@contextmanager
def open_engine(address: Address, role: str) -> Iterator[sa.Engine]:
    """An engine on a database that has our schema; raises db.connect.DatabaseError where that cannot be."""

    def connect() -> psycopg.Connection:
        connection = _connect(address, role)
        try:
            require_writable(connection.pgconn.parameter_status(b"in_hot_standby"), address)
        except ReadOnlyServer:
            connection.close()
            raise
        return connection

    engine = sa.create_engine("postgresql+psycopg://", creator=connect, poolclass=sa.NullPool)
    try:
        with engine.connect() as connection:
            _require_schema(connection)
        yield engine
    finally:
        engine.dispose()


@contextmanager
def open_reader(address: Address, role: str, connections: int) -> Iterator[sa.Engine]:
    """An engine that keeps its connections, for a role that may read our views and nothing else; on a standby as well.

    It connects when it is first used; whoever uses it meets db.connect.DatabaseError and sqlalchemy.exc.DBAPIError.
    """

    def connect() -> psycopg.Connection:
        # Which prepared statements a session has, a pooler in between does not know.
        return _connect(address, role, prepare_threshold=None)

    engine = sa.create_engine(
        "postgresql+psycopg://", creator=connect, pool_size=connections, max_overflow=0, pool_timeout=5
    )
    try:
        yield engine
    finally:
        engine.dispose()


def _connect(address: Address, role: str, **more: Any) -> psycopg.Connection:
    try:
        connection = psycopg.connect(**address.parameters(role), autocommit=True, **more)  # type: ignore[arg-type] # libpq's keywords
    except psycopg.OperationalError as error:
        raise refusal(error, address) from error
    read_every_moment(connection)
    connection.autocommit = False
    return connection


def _require_schema(connection: sa.Connection) -> None:
    try:
        require_revision(connection.scalar(VERSION))
    except sa.exc.ProgrammingError as error:
        if not isinstance(error.orig, psycopg.errors.UndefinedTable):
            raise
        require_revision(None)
