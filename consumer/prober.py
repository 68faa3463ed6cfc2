"""The prober: sends the proof's nonces from its own connection, and watches the notification queue and the mode."""

from collections.abc import Callable
from typing import LiteralString

import structlog

from consumer.proof import Proof
from db.connect import Connection
from db.liveness import deadline, while_idle

log = structlog.get_logger(__name__)

SEND_NONCE: LiteralString = """
SELECT
    pg_notify(%(channel)s, %(nonce)s),
    pg_notification_queue_usage() AS queue_usage,
    COALESCE((
        SELECT notify_mode = 'adaptive' OR awake_until IS NOT NULL FROM ops.cabinet_recovery_settings
    ), false) AS is_adaptive
"""
WORRYING_USAGE = 0.1
HINT = "a session listens but stays in a transaction: SELECT * FROM pg_stat_activity ORDER BY xact_start"


class Prober:
    """Asks for a proof of the listener's life at every interval, and at once when it has a new connection.

    `on_mode` is told whether there is a keeper's work to do: the mode is adaptive, or a lease stands from when it was.
    """

    def __init__(self, proof: Proof, on_mode: Callable[[bool], None]) -> None:
        self._proof = proof
        self._on_mode = on_mode
        self._worries_told = 0

    async def use(self, connection: Connection, on_progress: Callable[[], None]) -> None:
        """Ask until cancelled; raises psycopg.OperationalError where the connection is lost, or too slow."""
        while True:
            nonce = self._proof.challenge(connection)
            async with deadline(connection, self._proof.timeout_seconds):
                cursor = await connection.execute(SEND_NONCE, {"channel": self._proof.channel, "nonce": nonce})
                rows = await cursor.fetchall()
            self._proof.sent(nonce)
            on_progress()
            self._watch_queue(rows[0]["queue_usage"])
            self._on_mode(rows[0]["is_adaptive"])
            await while_idle(connection, self._proof.rest, self._proof.interval_seconds)

    def _watch_queue(self, usage: float) -> None:
        """Tell at 10 %, and again at each further tenth: a full queue fails every commit that notifies."""
        tenths = int(usage / WORRYING_USAGE)
        if tenths > self._worries_told:
            log.warning("notify_queue.filling", usage=round(usage, 3), hint=HINT)
        elif tenths == 0 and self._worries_told:
            log.info("notify_queue.drained", usage=round(usage, 3))
        self._worries_told = tenths
