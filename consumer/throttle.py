"""What holds a backfill back: a rate that it keeps to, and a server that is busy."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import structlog

from consumer.handlers.recover import Handler
from db.connect import AccessRefused
from db.pressure import READ_PRESSURE
from db.transaction import run_together

log = structlog.get_logger(__name__)

LOOK_PAUSE_SECONDS, LOOK_TIMEOUT_SECONDS = 1.0, 10
BATCH_SECONDS = 0.25  # of leads are in one batch at most: the smaller the rate, the smaller the batches
MOST_BEHIND_BYTES = 64 << 20
MISSING_SIGHT = (
    "to wait for replication lag or active sessions the role must see them: as a superuser, "
    "GRANT pg_read_all_stats TO it"
)

Rest = Callable[[float], Awaitable[bool]]


@dataclass(frozen=True)
class Bounds:
    """How fast, and how busy the server may be; None for no bound.

    The lag is the longest of all standbys that are connected: one that is away is not waited for. Active are sessions
    of clients in the midst of a statement, without those of sweeps.
    """

    max_rate: float | None = None
    max_replication_lag_seconds: float | None = None
    max_active_sessions: int | None = None

    @property
    def needs_sight(self) -> bool:
        return self.max_replication_lag_seconds is not None or self.max_active_sessions is not None

    def excess(self, pressure: dict[str, Any]) -> str | None:
        """What is beyond its bound, in words."""
        lag, most_lag = pressure["replication_lag_seconds"], self.max_replication_lag_seconds
        if most_lag is not None and lag > most_lag:
            found = f"{lag:.1f} s" if math.isfinite(lag) else f"more than {MOST_BEHIND_BYTES >> 20} MB"
            return f"replication lag is {found}, more than {most_lag:g} s"
        active, most_active = pressure["active_sessions"], self.max_active_sessions
        if most_active is not None and active > most_active:
            return f"{active} sessions are active, more than {most_active}"
        return None


class Throttle:
    """Admits batches one after the other: no sooner than the rate allows, and none while the server is too busy.

    Smooth: of time that was lost, no more than a batch's is made up for. `rest` is how it waits, and tells whether to
    go on at all.
    """

    def __init__(self, bounds: Bounds, rest: Rest) -> None:
        self._bounds = bounds
        self._rest = rest
        self._turn = asyncio.Lock()
        self._free_at = 0.0
        self._look_at = 0.0

    def batch_size(self, most: int) -> int:
        rate = self._bounds.max_rate
        return most if rate is None else max(1, min(most, int(rate * BATCH_SECONDS)))

    async def admit(self, handler: Handler, leads: int) -> None:
        """Wait until so many leads may be worked; raises AccessRefused where the role cannot see what to wait for."""
        async with self._turn:
            loop = asyncio.get_running_loop()
            await self._rest(self._free_at - loop.time())
            if self._bounds.needs_sight and loop.time() >= self._look_at:
                await self._wait_for_server(handler)
                self._look_at = loop.time() + LOOK_PAUSE_SECONDS
            if self._bounds.max_rate is not None:
                self._free_at = max(self._free_at, loop.time() - BATCH_SECONDS) + leads / self._bounds.max_rate

    async def _wait_for_server(self, handler: Handler) -> None:
        began = None
        while (excess := self._bounds.excess(await _read_pressure(handler))) is not None:
            if began is None:
                began = time.monotonic()
                log.info("sweep.waiting", reason=excess)
            if not await self._rest(LOOK_PAUSE_SECONDS):
                return
        if began is not None:
            log.info("sweep.resumed", waited_seconds=round(time.monotonic() - began, 1))


async def _read_pressure(handler: Handler) -> dict[str, Any]:
    parameters = {
        "most_behind_bytes": MOST_BEHIND_BYTES,
        "our_name": handler.connection.info.parameter_status("application_name"),
    }
    ((pressure,),) = await run_together(handler.connection, [READ_PRESSURE], parameters, LOOK_TIMEOUT_SECONDS)
    if not pressure["can_see"]:
        raise AccessRefused(MISSING_SIGHT)
    return pressure
