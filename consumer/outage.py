"""What is told of an outage, however many roles meet it and however long it lasts."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

log = structlog.get_logger(__name__)

LATE_SECONDS = 60.0


@dataclass
class Outage:
    """Tells of an outage once when it starts, at most once per interval while it lasts, and once when it ends.

    Shared by all roles: one server that goes away is one outage.
    """

    every_seconds: float = 30.0
    on_begin: Callable[[], None] = lambda: None
    _roles: dict[str, None] = field(default_factory=dict)
    _since: float = 0.0
    _ended: float = 0.0
    _told: float = 0.0
    _reason: str = ""
    _passing: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_on(self) -> bool:
        return bool(self._roles)

    def __str__(self) -> str:
        """What is wrong, since when, and the last reason that was given."""
        return f"degraded for {asyncio.get_running_loop().time() - self._since:.0f} s; {self._reason}"

    def begin(self, role: str, reason: str, connected_at: float | None) -> None:
        """Take in that a role lost the connection that it had since `connected_at`, or could not get one (None)."""
        now = asyncio.get_running_loop().time()
        if connected_at is not None and connected_at < self._ended and now - self._ended < LATE_SECONDS:
            log.debug("connection.stale", role=role, reason=reason)  # it only noticed late
            return
        if not self.is_on:
            self._since = now
        if not self.is_on or now - self._told >= self.every_seconds:
            self._told = now
            log.warning("database.lost", role=role, reason=reason, seconds=round(now - self._since))
        self._roles[role] = None
        self._reason = f"{role}: {reason}"
        self.on_begin()

    def end(self, role: str) -> None:
        """Take in that the role works again; whoever rests is told, for the server may be back for all."""
        if role not in self._roles:
            return
        del self._roles[role]
        self._passing.set()
        self._passing = asyncio.Event()
        if not self.is_on:
            self._ended = asyncio.get_running_loop().time()
            log.info("database.regained", seconds=round(self._ended - self._since, 1))

    async def rest(self, seconds: float) -> None:
        """Pause before the next attempt, at most until another role works again."""
        try:
            async with asyncio.timeout(seconds):
                await self._passing.wait()
        except TimeoutError:
            pass
