"""The daemon: which roles there are, who wakes whom, and how they start and stop together."""

import asyncio
import signal
from collections.abc import Callable

import structlog

from consumer.connection import Outage, Role, handler_on
from consumer.inbox import Inbox
from consumer.listener import Listener
from consumer.settings import Settings
from consumer.sweeper import Sweeper
from consumer.worker import Worker
from db.connect import Connection
from db.transaction import sever

log = structlog.get_logger(__name__)


SEVER_SECONDS = 0.5  # for a role to notice that its connection is gone


class GraceExceeded(Exception):
    """The batch in hand did not finish in time; it was undone, and its events stand."""


class Service:
    """Listener, worker and sweeper, each on a connection of its own, in one task group.

    A role that loses its connection gets another by itself; one that fails otherwise takes the process with it,
    so that it is never half alive.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._sweeper = Sweeper(settings.sweep_interval_seconds, settings.batch_size, settings.reconcile_slice)
        self._inbox = Inbox(settings.inbox_size, on_overflow=self._sweeper.wake)
        self._listener = Listener(self._inbox)
        self._worker = Worker(self._inbox, settings.batch_size, self._sweeper.wake)
        outage = Outage()
        self._roles = [
            Role("listener", self._listen, settings, outage),
            Role("worker", self._work, settings, outage),
            Role("sweeper", self._sweep, settings, outage),
        ]

    async def run(self) -> None:
        """Run until SIGTERM or SIGINT; the batch in hand is finished first.

        Raises GraceExceeded where that takes too long, and db.connect.DatabaseError where the database refuses us
        for good.
        """
        log.info("service.started", database=str(self._settings.database))
        stopping = _stop_signal()
        async with asyncio.TaskGroup() as group:
            tasks = {role.name: group.create_task(role.run(), name=role.name) for role in self._roles}
            await stopping.wait()
            await self._stop(tasks)
        log.info("service.stopped", **self._counts())

    async def _stop(self, tasks: dict[str, asyncio.Task[None]]) -> None:
        grace_seconds = self._settings.shutdown_grace_seconds
        log.info("service.stopping", grace_seconds=grace_seconds)
        self._inbox.close()
        self._sweeper.close()
        for role in self._roles:
            # The listener only reads, and who is not connected has nothing in hand.
            if role.name == "listener" or role.connection is None:
                tasks[role.name].cancel()
        _, unfinished = await asyncio.wait(tasks.values(), timeout=grace_seconds)
        if unfinished:
            await self._sever(unfinished)
            raise GraceExceeded(f"the batch in hand took longer than {grace_seconds} s; its events stand")

    async def _sever(self, unfinished: set[asyncio.Task[None]]) -> None:
        """Cut the connections first: to cancel, psycopg would ask the server, which may be what hangs."""
        for role in self._roles:
            if role.connection is not None:
                sever(role.connection)
        await asyncio.wait(unfinished, timeout=SEVER_SECONDS)

    async def _listen(self, connection: Connection, progress: Callable[[], None]) -> None:
        def on_listening() -> None:
            progress()
            self._sweeper.wake()

        await self._listener.use(connection, on_listening)

    async def _work(self, connection: Connection, progress: Callable[[], None]) -> None:
        progress()
        # What an earlier connection took from the inbox and did not finish is in the outbox.
        self._sweeper.wake()
        await self._worker.use(handler_on(connection, self._settings), progress)

    async def _sweep(self, connection: Connection, progress: Callable[[], None]) -> None:
        await self._sweeper.use(handler_on(connection, self._settings), progress)

    def _counts(self) -> dict[str, int]:
        return {
            "notifications": self._inbox.received,
            "overflowed": self._inbox.dropped,
            "unmatched": self._worker.unmatched,
            **{str(outcome): count for outcome, count in self._worker.outcomes.items()},
        }


def _stop_signal() -> asyncio.Event:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    return stopping
