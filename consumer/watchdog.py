"""The watchdog: a sign of life for the service manager, as long as every role gives its own."""

import asyncio
from collections.abc import Callable, Sequence

import structlog

from consumer.role import Role
from consumer.systemd import ServiceManager

log = structlog.get_logger(__name__)

TICK_SECONDS = 5.0
EXTENSION_MICROSECONDS = 30_000_000


class Watchdog:
    """Tells the service manager how we are: ready once it listens and has looked at what is due, alive, or not.

    Alive is more than an event loop that turns: each role must have made progress, or be waiting for the server, no
    longer ago than it said it would take. A role that owes its sign is named in the log, and the service manager
    hears no more of us: it will start us anew.
    """

    def __init__(self, manager: ServiceManager, roles: Sequence[Role], describe: Callable[[], str]) -> None:
        self._manager = manager
        self._roles = roles
        self._describe = describe
        self._awaited = {"listen", "look"}
        self._wanted = asyncio.Event()
        self._overdue: list[str] = []

    def saw(self, sign: str) -> None:
        """Take in that the first LISTEN ("listen"), or the first look at what is due ("look"), was made."""
        if sign not in self._awaited:
            return
        self._awaited.remove(sign)
        if not self._awaited:
            log.info("service.ready")
            self._manager.tell(ready=1)
            self._wanted.set()

    def overdue(self) -> list[str]:
        """The roles that owe their sign of life."""
        return [role.name for role in self._roles if role.is_overdue]

    async def run(self) -> None:
        """Report until cancelled."""
        while True:
            self._wanted.clear()
            self._report()
            try:
                async with asyncio.timeout(self._tick_seconds):
                    await self._wanted.wait()
            except TimeoutError:
                pass

    @property
    def _tick_seconds(self) -> float:
        # Half of what is allowed would do; a third forgives one that was late.
        allowed = self._manager.watchdog_seconds
        return TICK_SECONDS if allowed is None else min(TICK_SECONDS, allowed / 3)

    def _report(self) -> None:
        overdue = self.overdue()
        if overdue != self._overdue:
            log.error("role.overdue", roles=overdue) if overdue else log.info("role.back", roles=self._overdue)
            self._overdue = overdue
        self._manager.tell(status=f"{', '.join(overdue)}: no sign of life" if overdue else self._describe())
        if overdue:
            return
        self._manager.tell(watchdog=1)
        # Again and again: one may have been lost.
        self._manager.tell(**({"extend_timeout_usec": EXTENSION_MICROSECONDS} if self._awaited else {"ready": 1}))
