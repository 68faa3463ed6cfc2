"""What everybody who looks is shown: the last figures, and whether they are still true."""

import asyncio
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime

from consumer.reports.impact import ImpactReport
from db.board import Board, Look

OLD_AFTER_SECONDS = 5.0


@dataclass(frozen=True)
class Figures:
    """What a look at every lead found."""

    report: ImpactReport
    board: Board


@dataclass
class State:
    """The last that was read. `version` grows with each change; whoever waits for one is told."""

    look: Look | None = None
    figures: Figures | None = None
    version: int = 0
    seen_at: datetime | None = None
    _seen: float = 0.0
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_old(self) -> bool:
        """Whether the database was not seen of late, be it away or silent."""
        return self.seen_at is None or time.monotonic() - self._seen > OLD_AFTER_SECONDS

    def see(self, look: Look) -> bool:
        """Take in a look; whether it differs from the one before."""
        self.seen_at, self._seen = datetime.now(UTC), time.monotonic()
        if look == self.look:
            return False
        self.look = look
        self._change()
        return True

    def show(self, figures: Figures) -> None:
        self.figures = figures
        self._change()

    async def wait(self, version: int, seconds: float) -> None:
        """Wait for a later version, at most so long."""
        if self.version != version:
            return
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            pass

    def _change(self) -> None:
        self.version += 1
        self._changed.set()
        self._changed = asyncio.Event()
