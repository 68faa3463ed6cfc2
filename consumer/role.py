"""How a role of the daemon lives: connect, work, lose the connection, pause, connect again."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import psycopg
import structlog

from consumer.backoff import Backoff
from consumer.connection import open_connection
from consumer.errors import one_line
from consumer.outage import Outage
from db.connect import Address, Connection, DatabaseError, ReadOnlyServer, Unreachable
from db.liveness import Heartbeat, sever

log = structlog.get_logger(__name__)

OPEN_SECONDS = 60.0  # names that are not resolved, hosts that do not answer, one after the other

Use = Callable[[Connection, Callable[[], None]], Awaitable[None]]


class RoleDied(Exception):
    """A role ended that should have gone on: a defect of ours, and no reason to go on half alive."""


@dataclass(frozen=True)
class Place:
    """Where roles connect to, and how patiently."""

    address: Address
    reconnect_max_seconds: float


class Role:
    """A part of the daemon that lives on a connection of its own, and on another whenever that one fails.

    `use` is given the connection and a function to call on progress: only then is the next pause short again, so
    that an error which every connection meets at once does not become a busy loop.
    """

    def __init__(self, name: str, use: Use, place: Place, outage: Outage, *, holds_work: bool = True) -> None:
        self.name = name
        self.heartbeat = Heartbeat()
        self.connections = 0
        self._progressed_at: float | None = None
        self._use = use
        self._address = place.address
        self._outage = outage
        self._backoff = Backoff(most_seconds=place.reconnect_max_seconds)
        self._holds_work = holds_work
        self._connection: Connection | None = None
        self._connected_at: float | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_closing = False

    def start(
        self, group: asyncio.TaskGroup, wanted: Callable[[], Awaitable[None]] | None = None
    ) -> asyncio.Task[None]:
        """Run in the group, from when it is wanted until closed; once only, however often it is called."""
        self._task = self._task or group.create_task(self._run(wanted), name=self.name)
        return self._task

    def close(self) -> None:
        """End after the work in hand, and at once where there can be none; `use` must have been told."""
        self._is_closing = True
        if self._task is not None and (self._connection is None or not self._holds_work):
            self._task.cancel()

    @property
    def is_overdue(self) -> bool:
        return self.heartbeat.is_overdue and not self._is_closing

    @property
    def progress_age_seconds(self) -> float | None:
        """How long ago it last made progress; None before it ever did."""
        return None if self._progressed_at is None else time.monotonic() - self._progressed_at

    def sever(self) -> None:
        """Give up what is in hand: to cancel, psycopg would ask the server, which may be what hangs."""
        if self._connection is not None:
            sever(self._connection)

    async def _run(self, wanted: Callable[[], Awaitable[None]] | None) -> None:
        """Raise what no waiting mends (db.connect.DatabaseError), and RoleDied for what nobody foresaw."""
        try:
            if wanted is not None:
                await wanted()
            while not self._is_closing:
                await self._live_once()
        except DatabaseError:
            raise
        except Exception as error:
            log.exception("role.died", role=self.name)
            raise RoleDied(f"the {self.name} died: {one_line(error)}") from error

    async def _live_once(self) -> None:
        self._connected_at = None
        try:
            await self._connect_and_use()
        except (Unreachable, ReadOnlyServer, psycopg.Error) as error:
            if not self._is_closing:
                self._outage.begin(self.name, one_line(error), self._connected_at)
        else:
            if not self._is_closing:
                raise RoleDied("it ended by itself")
        if not self._is_closing:
            pause = self._backoff.next_pause()
            self.heartbeat.expect(pause)
            await self._outage.rest(pause)

    async def _connect_and_use(self) -> None:
        self.heartbeat.expect(OPEN_SECONDS)
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                self._connection = await open_connection(self._address, self.name, self.heartbeat)
        except TimeoutError:
            raise Unreachable(f"no connection to {self._address} within {OPEN_SECONDS:.0f} s") from None
        self._connected_at = asyncio.get_running_loop().time()
        self.connections += 1
        self.heartbeat.expect(0)
        try:
            await self._use(self._connection, self._progressed)
        finally:
            # Not close(), which waits for a server that may not answer any more.
            self._connection.pgconn.finish()
            self._connection = None

    def _progressed(self) -> None:
        self._progressed_at = time.monotonic()
        self._backoff.reset()
        self._outage.end(self.name)
