"""The daemon: which roles there are, who wakes whom, and how they start and stop together."""

import asyncio
import signal
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import structlog

from consumer.connection import handler_on, open_handler
from consumer.errors import Aborted
from consumer.handlers.outcome import Outcome
from consumer.handlers.recover import Handler
from consumer.inbox import Inbox
from consumer.keeper import Keeper
from consumer.listener import Listener
from consumer.log import reread_level
from consumer.outage import Outage
from consumer.prober import Prober
from consumer.proof import Proof
from consumer.role import Place, Role
from consumer.settings import Settings
from consumer.sweeper import Pace, Sweeper
from consumer.systemd import ServiceManager
from consumer.watchdog import Watchdog
from consumer.worker import Worker
from db.connect import Connection

if TYPE_CHECKING:
    from consumer.monitoring.monitor import Monitor

log = structlog.get_logger(__name__)

STANDS_SECONDS = 2.0
SEVER_SECONDS = 0.5  # for a role to notice that its connection is gone
EXIT_SECONDS = 5  # for all the rest, once the grace is over


class Service:
    """Listener, worker, sweeper and prober, each on a connection of its own, in one task group; and a keeper from
    when the mode of notification is first adaptive.

    A role that loses its connection gets another by itself; one that fails otherwise takes the process with it,
    so that it is never half alive. While one has none, or the listener is not proved to hear what is sent, frequent
    sweeps stand in.
    """

    def __init__(self, settings: Settings, manager: ServiceManager | None = None) -> None:
        self._settings = settings
        self._manager = manager or ServiceManager()
        self._stopping, self._aborting = asyncio.Event(), asyncio.Event()
        self._asked_by = signal.SIGTERM
        pace = Pace(
            settings.sweep_interval_seconds,
            settings.degraded_sweep_interval_seconds,
            settings.batch_size,
            settings.reconcile_slice,
        )
        self._sweeper = Sweeper(
            pace,
            self._is_degraded,
            open_handler=partial(open_handler, settings, "look"),
            on_looked=lambda: self._watchdog.saw("look"),
        )
        self._inbox = Inbox(settings.inbox_size, on_overflow=self._sweeper.wake)
        self._proof = Proof(
            settings.proof_interval_seconds,
            settings.proof_timeout_seconds,
            on_change=self._sweeper.wake,
        )
        self._outage = Outage(settings.outage_log_interval_seconds, on_begin=self._sweeper.wake)
        self._listener = Listener(self._inbox, self._proof)
        self._keeper = Keeper(self._inbox, self._sweeper.wake)
        self._prober = Prober(self._proof, self._keeper.note_mode)
        self._worker = Worker(self._inbox, settings.batch_size, self._sweeper.wake)
        self._roles = self._make_roles()
        self._wanted = {"keeper": self._keeper.wanted}
        self._watchdog = Watchdog(self._manager, self._roles, self._describe)
        self._monitor = self._make_monitor()

    def _is_degraded(self) -> bool:
        """Whether a match may go unheard or, heard, wait for a worker."""
        return self._outage.is_on or not self._proof.is_proved

    def _make_roles(self) -> list[Role]:
        settings = self._settings
        outage = self._outage
        place = Place(settings.database, settings.reconnect_max_seconds)
        direct = Place(settings.listener_database or settings.database, settings.reconnect_max_seconds)
        return [
            Role("listener", self._listen, direct, outage, holds_work=False),
            Role("worker", self._work, place, outage),
            Role("sweeper", self._sweep, place, outage),
            Role("prober", self._prober.use, place, outage, holds_work=False),
            Role("keeper", self._keeper.use, direct, outage, holds_work=False),
        ]

    def _make_monitor(self) -> "Monitor | None":
        if self._settings.metrics_address is None:
            return None
        from consumer.monitoring.monitor import Monitor  # noqa: PLC0415 # what nobody asked for takes no memory

        return Monitor(self._settings, self._roles, self._proof, self._watchdog)

    async def run(self) -> None:
        """Run until SIGTERM or SIGINT; the batch in hand is finished first.

        Raises consumer.errors.Aborted where that takes too long, or at a second signal, consumer.errors.SettingsError
        where the metrics' address cannot be served, db.connect.DatabaseError where the database refuses us for good,
        and consumer.role.RoleDied.
        """
        log.info("service.started", database=str(self._settings.database))
        self._take_signals()
        if self._monitor is not None:
            await self._monitor.open()
        async with asyncio.TaskGroup() as group:
            watching = [group.create_task(self._watchdog.run(), name="watchdog")]
            if self._monitor is not None:
                watching.append(group.create_task(self._monitor.run(), name="monitor"))
            tasks = [role.start(group, self._wanted.get(role.name)) for role in self._roles]
            await self._stopping.wait()
            try:
                await self._stop(tasks)
            finally:
                for task in watching:
                    task.cancel()
        log.info("service.stopped", **self._counts())

    def _take_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop, number)
        loop.add_signal_handler(signal.SIGHUP, reread_level, self._settings)

    def stop(self, number: signal.Signals) -> None:
        """Stop after the batch in hand; asked again, at once."""
        self._asked_by = number
        (self._aborting if self._stopping.is_set() else self._stopping).set()

    async def _stop(self, tasks: list[asyncio.Task[None]]) -> None:
        grace_seconds = self._settings.shutdown_grace_seconds
        log.info("service.stopping", grace_seconds=grace_seconds)
        self._manager.tell(stopping=1, extend_timeout_usec=int(1e6 * (grace_seconds + EXIT_SECONDS)))
        self._inbox.close()
        self._sweeper.close()
        for role in self._roles:
            role.close()
            if role.name == "sweeper" and self._sweeper.is_looking:
                role.sever()
        aborting = asyncio.create_task(self._aborting.wait())
        finishing = asyncio.create_task(asyncio.wait(tasks))
        await asyncio.wait({finishing, aborting}, timeout=grace_seconds, return_when=asyncio.FIRST_COMPLETED)
        aborting.cancel()
        if finishing.done():
            return
        for role in self._roles:
            role.sever()
        await asyncio.wait({finishing}, timeout=SEVER_SECONDS)
        finishing.cancel()
        why = "was given up at the second signal" if self._aborting.is_set() else f"took longer than {grace_seconds} s"
        raise Aborted(f"the batch in hand {why}; its events stand", self._asked_by)

    async def _listen(self, connection: Connection, progress: Callable[[], None]) -> None:
        def on_listening() -> None:
            self._watchdog.saw("listen")
            self._sweeper.wake()

        await self._listener.use(connection, on_listening, on_proved=progress)

    async def _work(self, connection: Connection, progress: Callable[[], None]) -> None:
        # What an earlier connection took from the inbox and did not finish is in the outbox.
        self._sweeper.wake()
        # Without a batch to prove it, that it stands for a while is progress enough; to connect is none.
        stands = asyncio.get_running_loop().call_later(STANDS_SECONDS, progress)
        try:
            await self._worker.use(self._handler_on(connection), progress)
        finally:
            stands.cancel()

    async def _sweep(self, connection: Connection, progress: Callable[[], None]) -> None:
        await self._sweeper.use(self._handler_on(connection), progress)

    def _handler_on(self, connection: Connection) -> Handler:
        return handler_on(connection, self._settings, self._monitor.handler if self._monitor else Handler)

    def _outcomes(self) -> Counter[Outcome]:
        return self._worker.outcomes + self._sweeper.outcomes

    def _counts(self) -> dict[str, int]:
        return {
            "notifications": self._inbox.received,
            "overflowed": self._inbox.dropped,
            "refused": self._inbox.refused,
            "unmatched": self._worker.unmatched,
            **{str(outcome): count for outcome, count in self._outcomes().items()},
        }

    def _describe(self) -> str:
        """How it goes, in a line."""
        lag = self._worker.lag_ms
        return "; ".join([
            str(self._outage) if self._outage.is_on else "listening" if self._proof.is_proved else "starting",
            *([] if lag is None else [f"last lead recovered {lag:.0f} ms after its match"]),
            *(f"{count} {outcome}" for outcome, count in sorted(self._outcomes().items())),
        ])  # fmt: skip
