"""Reads the database for everybody: a cheap look twice a second, and all figures as often as they cost little."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import psycopg
import sqlalchemy as sa
import structlog

from consumer.errors import one_line
from consumer.outage import Outage
from consumer.reports.impact import read_impact
from consumer.web.state import Figures, State
from db.board import look, read_board
from db.connect import AccessRefused, DatabaseError, InvalidAddress, SchemaMismatch

log = structlog.get_logger(__name__)

LOOK_SECONDS = 0.5
FIGURES_SECONDS = 30.0
CHEAP_SECONDS = 1.0
CONNECTIONS = 5  # look, figures, and what is searched for
HOPELESS = (AccessRefused, InvalidAddress, SchemaMismatch)

Read = TypeVar("Read")


class Pace:
    """While the figures are cheap they follow each match; where they are not, they are read a tenth of the time.

    What they cost is the least that one of the last three took: the first one connects and warms up, and a busy machine
    makes any of them slow, though the database has no more to do.
    """

    def __init__(self) -> None:
        self._took: deque[float] = deque(maxlen=3)

    def rest_seconds(self, took: float) -> float:
        is_first = not self._took
        self._took.append(took)
        least = min(self._took)
        return least if is_first or least < CHEAP_SECONDS else 9 * least


@dataclass
class Watcher:
    """Keeps the state true, whatever becomes of the server.

    What no waiting mends (role, password, schema) ends it, but only until the database was seen once: later on it
    waits for that as well, and shows what it has.
    """

    engine: sa.Engine
    state: State
    outage: Outage
    _wanted: asyncio.Event = field(default_factory=asyncio.Event)
    _pace: Pace = field(default_factory=Pace)

    async def watch(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._look())
            tasks.create_task(self._read_figures())

    async def _look(self) -> None:
        while True:
            took, found = await self._ask("look", look)
            if found is not None and self.state.see(found):
                self._wanted.set()
            await asyncio.sleep(max(LOOK_SECONDS, took))

    async def _read_figures(self) -> None:
        while True:
            self._wanted.clear()
            took, found = await self._ask("figures", _figures)
            if found is None:
                await asyncio.sleep(max(LOOK_SECONDS, took))
                continue
            self.state.show(found)
            await asyncio.sleep(self._pace.rest_seconds(took))
            try:
                async with asyncio.timeout(FIGURES_SECONDS):
                    await self._wanted.wait()
            except TimeoutError:
                pass

    async def _ask(self, role: str, question: Callable[[sa.Engine], Read]) -> tuple[float, Read | None]:
        """How many seconds it took, and the answer, or None where there was none."""
        started = time.monotonic()
        try:
            found = await asyncio.to_thread(question, self.engine)
        except (DatabaseError, sa.exc.SQLAlchemyError) as error:
            reason = _reason(error)
            if self.state.seen_at is None and isinstance(reason, HOPELESS):
                raise reason from None
            self.outage.begin(role, one_line(reason), None)
            return time.monotonic() - started, None
        self.outage.end(role)
        return time.monotonic() - started, found


def _figures(engine: sa.Engine) -> Figures:
    return Figures(read_impact(engine, with_times=False), read_board(engine))


def _reason(error: Exception) -> Exception:
    """A reader may not look at the schema's version: that views are missing tells it all the same."""
    missing = (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName, psycopg.errors.UndefinedColumn)
    cause = getattr(error, "orig", None)
    if isinstance(cause, missing):
        return SchemaMismatch("the service's schema is missing or outdated: run `consumer migrate`")
    if isinstance(cause, psycopg.errors.InsufficientPrivilege):
        return AccessRefused(f"the role lacks its rights: {cause.diag.message_primary}; GRANT it the reader's role")
    return error
