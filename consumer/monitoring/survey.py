"""The survey: looks at the queue on a pace of its own, for the metrics."""

import asyncio
import time
from collections.abc import Callable

import psycopg
import structlog

from consumer.errors import one_line
from db.connect import Connection
from db.liveness import while_idle
from db.survey import SET_UP_SURVEY, SURVEY
from db.transaction import run_together

log = structlog.get_logger(__name__)

STATEMENT_SECONDS = 2
STALE_INTERVALS = 3


class Survey:
    """Holds the latest figures, for as long as they tell how things are.

    One statement at every interval, however many scrape. A figure that could not be taken anew is forgotten after three
    intervals, and at once where the connection is lost: no figure is better than one that is not true any more.
    """

    def __init__(self, interval_seconds: float) -> None:
        self._interval_seconds = interval_seconds
        self._figures: dict[str, float] = {}
        self._taken_at: float | None = None
        self._refusal = ""

    @property
    def age_seconds(self) -> float | None:
        return None if self._taken_at is None else time.monotonic() - self._taken_at

    def figure(self, name: str) -> float | None:
        age_seconds = self.age_seconds
        if age_seconds is None or age_seconds > STALE_INTERVALS * self._interval_seconds:
            return None
        return self._figures.get(name)

    async def use(self, connection: Connection, on_progress: Callable[[], None]) -> None:
        """Look until cancelled; raises psycopg.OperationalError where the connection is lost, or too slow."""
        try:
            while True:
                await self._take(connection)
                on_progress()
                await while_idle(connection, self._rest, self._interval_seconds)
        finally:
            self._figures = {}

    async def _rest(self) -> None:
        await asyncio.sleep(self._interval_seconds)

    async def _take(self, connection: Connection) -> None:
        try:
            _, (figures,) = await run_together(
                connection,
                [SET_UP_SURVEY, SURVEY],
                {"statement_timeout_ms": 1000 * STATEMENT_SECONDS},
                STATEMENT_SECONDS,
            )
        except psycopg.Error as error:
            # A right that is missing, a table that somebody locked: the figures' loss, and nobody else's.
            if connection.closed:
                raise
            if self._refusal != (refusal := one_line(error)):
                log.warning("survey.failed", reason=refusal)
            self._refusal = refusal
        else:
            self._figures, self._taken_at, self._refusal = figures, time.monotonic(), ""
