"""The listener: a connection of its own that reads notifications and nothing else."""

from collections.abc import Callable

import structlog
from psycopg import sql

from consumer.inbox import Inbox
from consumer.proof import Proof
from db.connect import Connection
from db.liveness import deadline

log = structlog.get_logger(__name__)

LISTEN_SECONDS = 10


class Listener:
    """Puts every notification into the inbox, for as long as the connection lives and proves it.

    Delivery is best effort: PostgreSQL forgets what was sent while we were away, and a transaction pooler swallows
    it all without an error. Every connection therefore ends its silence with a sweep, which `on_listening` asks for.
    """

    def __init__(self, inbox: Inbox, proof: Proof) -> None:
        self._inbox = inbox
        self._proof = proof
        self._is_told = False

    async def use(
        self, connection: Connection, on_listening: Callable[[], None], on_proved: Callable[[], None]
    ) -> None:
        """Read until cancelled, until the connection is lost (psycopg.OperationalError) or not proved in time
        (NothingArrives).

        The connection must be in autocommit: an open transaction would hold back the server's notification queue
        and its vacuum.
        """
        # LISTEN before the sweep: the other order loses a match committed between the two; this one at worst sees
        # it twice, and the handler tolerates that.
        async with deadline(connection, LISTEN_SECONDS):
            await connection.execute("LISTEN cabinet_recovery")
            await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(self._proof.channel)))
        # An outage that lets us LISTEN but not hear may last for long: one line is enough.
        (log.debug if self._is_told else log.info)("listener.listening")
        self._is_told = True
        on_listening()
        with self._proof.demanded_of(connection):
            await self._read(connection, on_proved)

    async def _read(self, connection: Connection, on_proved: Callable[[], None]) -> None:
        connection.heartbeat.expect(self._proof.patience_seconds)
        # Nothing is awaited in the loop, and it is never left: psycopg forgets the rest of a packet that is not
        # read to its end.
        async for notification in connection.notifies():
            if notification.channel == self._proof.channel:
                self._proof.receive(notification.payload)
                connection.heartbeat.expect(self._proof.patience_seconds)
                self._is_told = False
                on_proved()
            else:
                self._inbox.offer(notification.payload)
