"""The listener: a connection of its own that reads notifications and nothing else."""

from collections.abc import Callable

import structlog

from consumer.inbox import Inbox
from db.connect import Connection
from db.transaction import deadline

log = structlog.get_logger(__name__)

LISTEN_SECONDS = 10


class Listener:
    """Puts every notification into the inbox, for as long as the connection lives.

    Delivery is best effort: PostgreSQL forgets what was sent while we were away, and a transaction pooler swallows
    it all without an error. Every connection therefore ends its silence with a sweep, which `on_listening` asks for.
    """

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox

    async def use(self, connection: Connection, on_listening: Callable[[], None]) -> None:
        """Read until cancelled or until the connection is lost (psycopg.OperationalError).

        The connection must be in autocommit: an open transaction would hold back the server's notification queue
        and its vacuum.
        """
        # LISTEN before the sweep: the other order loses a match committed between the two; this one at worst sees
        # it twice, and the handler tolerates that.
        async with deadline(connection, LISTEN_SECONDS):
            await connection.execute("LISTEN cabinet_recovery")
        log.info("listener.listening")
        on_listening()
        # Nothing is awaited in the loop, and it is never left: psycopg forgets the rest of a packet that is not
        # read to its end.
        async for notification in connection.notifies():
            self._inbox.offer(notification.payload)
