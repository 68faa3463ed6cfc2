"""How a role of the daemon stays connected: connect, work, lose it, pause, connect again."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import psycopg
import structlog

from consumer.backoff import Backoff
from consumer.errors import one_line
from consumer.handlers.recover import Handler
from consumer.settings import Settings
from db.connect import Connection, ReadOnlyServer, Unreachable, connect, require_schema
from db.transaction import deadline

log = structlog.get_logger(__name__)

SCHEMA_CHECK_SECONDS = 10


async def open_connection(settings: Settings, role: str) -> Connection:
    """Connect to a database that has our schema; raises db.connect.DatabaseError where that cannot be."""
    connection = await connect(settings.database, role)
    try:
        async with deadline(connection, SCHEMA_CHECK_SECONDS):
            await require_schema(connection)
    except BaseException:
        await connection.close()
        raise
    return connection


def handler_on(connection: Connection, settings: Settings) -> Handler:
    return Handler(
        connection,
        lock_timeout_ms=settings.lock_timeout_ms,
        statement_timeout_seconds=settings.statement_timeout_seconds,
        max_attempts=settings.max_attempts,
    )


async def open_handler(settings: Settings, role: str) -> Handler:
    return handler_on(await open_connection(settings, role), settings)


@dataclass
class Outage:
    """Tells of an outage once when it starts, every half minute while it lasts, and once when it ends.

    Shared by all roles: one server that goes away is one outage.
    """

    every_seconds: float = 30.0
    _roles: dict[str, None] = field(default_factory=dict)
    _since: float = 0.0
    _ended: float = 0.0
    _told: float = 0.0

    def begin(self, role: str, reason: str, connected_at: float | None) -> None:
        """Take in that a role lost the connection that it had since `connected_at`, or could not get one (None)."""
        if connected_at is not None and connected_at < self._ended:
            log.debug("connection.stale", role=role, reason=reason)  # it only noticed late
            return
        now = asyncio.get_running_loop().time()
        if not self._roles:
            self._since = now
        if not self._roles or now - self._told >= self.every_seconds:
            self._told = now
            log.warning("database.lost", role=role, reason=reason, seconds=round(now - self._since))
        self._roles[role] = None

    def end(self, role: str) -> None:
        if role in self._roles:
            del self._roles[role]
            if not self._roles:
                self._ended = asyncio.get_running_loop().time()
                log.info("database.regained", seconds=round(self._ended - self._since, 1))


Use = Callable[[Connection, Callable[[], None]], Awaitable[None]]


class Role:
    """A part of the daemon that lives on a connection of its own, and on another whenever that one fails.

    `use` is given the connection and a function to call on progress: only then is the next pause short again, so
    that an error which every connection meets at once does not become a busy loop.
    """

    def __init__(self, name: str, use: Use, settings: Settings, outage: Outage) -> None:
        self.name = name
        self.connection: Connection | None = None
        self._connected_at: float | None = None
        self._use = use
        self._settings = settings
        self._outage = outage
        self._backoff = Backoff(most_seconds=settings.reconnect_max_seconds)

    async def run(self) -> None:
        """Connect, work, lose it, pause, connect again, until `use` returns.

        Raises db.connect.AccessRefused and SchemaMismatch, which no waiting mends.
        """
        while True:
            try:
                return await self._run_once()
            except (Unreachable, ReadOnlyServer, psycopg.Error) as error:
                self._outage.begin(self.name, one_line(error), self._connected_at)
            await asyncio.sleep(self._backoff.next_pause())

    async def _run_once(self) -> None:
        self._connected_at = None
        self.connection = await open_connection(self._settings, self.name)
        self._connected_at = asyncio.get_running_loop().time()
        try:
            await self._use(self.connection, self._progress)
        finally:
            # Not close(), which waits for a server that may not answer any more.
            self.connection.pgconn.finish()
            self.connection = None

    def _progress(self) -> None:
        self._backoff.reset()
        self._outage.end(self.name)
