"""The prober: sends the proof's nonces from a connection of its own, and watches the server's notification queue."""

from collections.abc import Callable
from typing import LiteralString

import structlog

from consumer.proof import Proof
from db.connect import Connection
from db.liveness import deadline, while_idle

log = structlog.get_logger(__name__)

SEND_NONCE: LiteralString = """
SELECT pg_notify(%(channel)s, %(nonce)s), pg_notification_queue_usage() AS queue_usage
"""
WORRYING_USAGE = 0.1
HINT = "a session listens but stays in a transaction: SELECT * FROM pg_stat_activity ORDER BY xact_start"


class Prober:
    """Asks for a proof of the listener's life at every interval, and at once when it has a new connection."""

    def __init__(self, proof: Proof) -> None:
        self._proof = proof
        self._worries_told = 0

    async def use(self, connection: Connection, on_progress: Callable[[], None]) -> None:
        """Ask until cancelled; raises psycopg.OperationalError where the connection is lost, or too slow."""
        connection.pgconn.notify_handler = None  # as those of a handler's connection
        while True:
            nonce = self._proof.challenge(connection)
            async with deadline(connection, self._proof.timeout_seconds):
                cursor = await connection.execute(SEND_NONCE, {"channel": self._proof.channel, "nonce": nonce})
                rows = await cursor.fetchall()
            self._proof.sent(nonce)
            on_progress()
            self._watch_queue(rows[0]["queue_usage"])
            await while_idle(connection, self._proof.rest, self._proof.interval_seconds)

    def _watch_queue(self, usage: float) -> None:
        """Tell at 10 %, and again at each further tenth: a full queue fails every commit that notifies."""
        tenths = int(usage / WORRYING_USAGE)
        if tenths > self._worries_told:
            log.warning("notify_queue.filling", usage=round(usage, 3), hint=HINT)
        elif tenths == 0 and self._worries_told:
            log.info("notify_queue.drained", usage=round(usage, 3))
        self._worries_told = tenths
