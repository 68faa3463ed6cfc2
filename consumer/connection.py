"""How the program opens a connection to do its work on."""

from collections.abc import Callable

from consumer.handlers.recover import Handler
from consumer.settings import Settings
from db.connect import Address, Connection, connect, require_schema
from db.liveness import Heartbeat
from db.row_security import require_visible_rows


async def open_connection(address: Address, role: str, heartbeat: Heartbeat | None = None) -> Connection:
    """Connect to a database that has our schema; raises db.connect.DatabaseError where that cannot be.

    Notifications are dropped, unless whoever listens sets a handler of its own.
    """
    connection = await connect(address, role, heartbeat)
    # Behind a pooler, what another session listens to may arrive here: psycopg would keep it all.
    connection.pgconn.notify_handler = None
    try:
        await require_schema(connection)
        await require_visible_rows(connection)
    except BaseException:
        connection.pgconn.finish()
        raise
    return connection


def handler_on(connection: Connection, settings: Settings, make: Callable[..., Handler] = Handler) -> Handler:
    return make(
        connection,
        lock_timeout_ms=settings.lock_timeout_ms,
        statement_timeout_seconds=settings.statement_timeout_seconds,
        max_attempts=settings.max_attempts,
    )


async def open_handler(settings: Settings, role: str) -> Handler:
    return handler_on(await open_connection(settings.database, role), settings)
