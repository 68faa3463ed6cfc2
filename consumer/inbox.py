"""The inbox: what the listener heard and the worker has not looked at yet."""

import asyncio
from collections.abc import Callable


class Inbox:
    """A bounded set of lead ids, in the order in which they came.

    A notification is a hint and the outbox is the truth, so that forgetting is safe as long as a sweep follows:
    `on_overflow` is called where an id had to be dropped, and where the payload is empty, which asks for a sweep.
    """

    def __init__(self, size: int, on_overflow: Callable[[], None]) -> None:
        self._size = size
        self._on_overflow = on_overflow
        self._lead_ids: dict[str, None] = {}
        self._filled = asyncio.Event()
        self._closed = False
        self.received = 0
        self.dropped = 0
        self.refused = 0

    def offer(self, payload: str) -> None:
        """Take in one notification; never blocks."""
        self.received += 1
        if payload:
            self.add(payload)
        else:
            self._on_overflow()

    def add(self, lead_id: str) -> None:
        """Take in a lead, of which somebody need not have notified; never blocks."""
        if len(self._lead_ids) >= self._size and lead_id not in self._lead_ids:
            self.dropped += 1
            self._on_overflow()
        else:
            self._lead_ids[lead_id] = None
            self._filled.set()

    def refuse(self) -> None:
        """Count a notification whose payload is no text: it names no lead."""
        self.received += 1
        self.refused += 1

    @property
    def waiting(self) -> int:
        return len(self._lead_ids)

    async def take(self, most: int) -> list[str]:
        """Wait for lead ids and take up to `most`: as many as came while the last ones were worked on.

        An empty list means that the inbox is closed.
        """
        await self._filled.wait()
        if self._closed:
            return []
        taken = list(self._lead_ids)[:most]
        for lead_id in taken:
            del self._lead_ids[lead_id]
        if not self._lead_ids:
            self._filled.clear()
        return taken

    def close(self) -> None:
        """End `take`; what is still inside stays in the outbox, for whoever sweeps next."""
        self._closed = True
        self._filled.set()
