"""The listener: a connection of its own that reads notifications and nothing else."""

from collections.abc import Callable

import structlog
from psycopg import generators, sql
from psycopg.pq import PGnotify

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
        # In bytes, whatever they are: anyone may notify, and a database in SQL_ASCII passes on what is no text at all.
        connection.pgconn.notify_handler = lambda notification: self._hear(notification, connection, on_proved)
        async with deadline(connection, LISTEN_SECONDS):
            if connection.info.parameter_status("server_encoding") == "SQL_ASCII":
                # Else the server itself would fail over what is no text, and end the connection.
                await connection.execute("SET client_encoding TO SQL_ASCII")
            await connection.execute("LISTEN cabinet_recovery")
            await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(self._proof.channel)))
        # An outage that lets us LISTEN but not hear may last for long: one line is enough.
        (log.debug if self._is_told else log.info)("listener.listening")
        self._is_told = True
        on_listening()
        with self._proof.demanded_of(connection):
            await self._read(connection)

    async def _read(self, connection: Connection) -> None:
        connection.heartbeat.expect(self._proof.patience_seconds)
        while True:
            # psycopg looks up ten times a second for a Ctrl-C, which asyncio tells us of anyhow: idle, that cost most.
            await connection.wait(generators.notifies(connection.pgconn), interval=self._proof.patience_seconds)

    def _hear(self, notification: PGnotify, connection: Connection, on_proved: Callable[[], None]) -> None:
        """Take in one notification, as it is read; raises nothing, or the rest of its packet would be forgotten."""
        try:
            channel, payload = notification.relname.decode(), notification.extra.decode()
        except UnicodeDecodeError:
            self._inbox.refuse()
            return
        if channel == self._proof.channel:
            if self._proof.receive(payload):
                connection.heartbeat.expect(self._proof.patience_seconds)
                self._is_told = False
                on_proved()
        else:
            self._inbox.offer(payload)
