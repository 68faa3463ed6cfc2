"""The sweep: whatever is due and was not heard of, the most urgent first."""

import asyncio
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, LiteralString

import structlog

from consumer.handlers.outcome import Batch, Summary
from consumer.handlers.recover import Asked, Handler
from consumer.log import log_recoveries
from db import listing
from db.transaction import run_together

log = structlog.get_logger(__name__)

LISTING_TIMEOUT_SECONDS = 600
LIST_LIMIT = 100_000
SHORTEST_PAUSE_SECONDS = 1.0


@dataclass(frozen=True)
class DueLead:
    """A lead to be worked; without an event, it is due by its state alone."""

    lead_id: str
    has_event: bool


async def list_due(handler: Handler, statement: LiteralString = listing.LIST_ALL, **parameters: int) -> list[DueLead]:
    """List due leads, open windows first: once, so that what is worked meanwhile cannot shift the order."""
    rows = await _listed(handler, statement, parameters)
    return [DueLead(row["lead_id"], row["has_event"]) for row in rows]


async def _listed(handler: Handler, statement: LiteralString, parameters: dict[str, int]) -> list[dict[str, Any]]:
    timeout = {"statement_timeout_ms": 1000 * LISTING_TIMEOUT_SECONDS}
    *_, rows = await run_together(
        handler.connection,
        [listing.SET_UP_LISTING, statement],
        parameters | timeout,
        LISTING_TIMEOUT_SECONDS,
    )
    return rows


async def recover_batch(handler: Handler, leads: Sequence[DueLead]) -> Batch:
    """Have the leads recovered; those without an event get theirs first."""
    asked = None if all(lead.has_event for lead in leads) else Asked.BY_SWEEP
    return await handler.recover([lead.lead_id for lead in leads], asked)


def in_batches(leads: Sequence[DueLead], size: int) -> Iterator[Sequence[DueLead]]:
    for start in range(0, len(leads), size):
        yield leads[start : start + size]


class Sweeper:
    """Sweeps at once, then whenever woken and at the latest after the interval; never more than once a second.

    The first sweep looks at every lead's state. Each later one takes what has events and what waits for a lead or a
    person to arrive; those of the interval also a slice of all leads in turn, so that what no event told of is
    found in the end.
    """

    def __init__(self, interval_seconds: float, batch_size: int, slice_size: int) -> None:
        self._interval_seconds = interval_seconds
        self._batch_size = batch_size
        self._slice_size = slice_size
        self._slice_after = 0
        self._saw_every_lead = False
        self._wanted = asyncio.Event()
        self._alarm: asyncio.TimerHandle | None = None
        self._closing = asyncio.Event()

    def wake(self, after_seconds: float = 0) -> None:
        """Sweep soon, or after a while; the earliest of several wishes holds."""
        if after_seconds <= 0:
            self._wanted.set()
            return
        loop = asyncio.get_running_loop()
        when = loop.time() + after_seconds
        if self._alarm is None or self._alarm.when() <= loop.time() or when < self._alarm.when():
            if self._alarm is not None:
                self._alarm.cancel()
            self._alarm = loop.call_at(when, self._wanted.set)

    def close(self) -> None:
        """End `use` after the batch in hand."""
        self._closing.set()
        self._wanted.set()

    async def use(self, handler: Handler, on_progress: Callable[[], None]) -> None:
        """Sweep until closed; raises psycopg.Error where the database fails a sweep."""
        is_woken = True
        while not self._closing.is_set():
            self._wanted.clear()
            await self._sweep(handler, with_slice=not is_woken)
            on_progress()
            is_woken = await self._rest()

    async def _rest(self) -> bool:
        """Rest until woken or until the interval is over; tell whether it was woken."""
        pause = self._interval_seconds * random.uniform(0.9, 1.1)  # noqa: S311 # jitter is no secret
        await _wait(self._closing, SHORTEST_PAUSE_SECONDS)
        return await _wait(self._wanted, pause - SHORTEST_PAUSE_SECONDS)

    async def _sweep(self, handler: Handler, *, with_slice: bool) -> None:
        if not self._saw_every_lead:
            await self._sweep_list("everything", handler, listing.LIST_ALL)
            self._saw_every_lead = not self._closing.is_set()
            return
        await self._sweep_list("events", handler, listing.LIST_PENDING)
        await self._recover("waiting", handler, await list_due(handler, listing.LIST_WAITING))
        if with_slice:
            await self._recover("slice", handler, await self._next_slice(handler))

    async def _sweep_list(self, what: str, handler: Handler, statement: LiteralString) -> None:
        while True:
            leads = await list_due(handler, statement, limit=LIST_LIMIT)
            progressed = await self._recover(what, handler, leads)
            if self._closing.is_set() or not progressed or len(leads) < LIST_LIMIT:
                return

    async def _next_slice(self, handler: Handler) -> list[DueLead]:
        bounds = {"after": self._slice_after, "size": self._slice_size}
        slice_end = (await _listed(handler, listing.SLICE_END, bounds))[0]["slice_end"]
        self._slice_after = slice_end or 0
        if slice_end is None:
            return []
        return await list_due(handler, listing.LIST_SLICE, after=bounds["after"], slice_end=slice_end)

    async def _recover(self, what: str, handler: Handler, leads: Sequence[DueLead]) -> bool:
        """Work the list to its end, or to the batch in which we are closed; tell whether anything was settled."""
        summary = Summary()
        busy = 0
        for part in in_batches(leads, self._batch_size):
            if self._closing.is_set():
                break
            batch = await recover_batch(handler, part)
            log_recoveries(batch, level="debug")  # they may be a million
            summary.add(batch.recoveries)
            busy += len(batch.busy)
            for recovery in batch.recoveries:
                if recovery.retry_seconds is not None:
                    self.wake(recovery.retry_seconds)
        if busy or summary.writes["link", "move"]:
            self.wake()
        if leads:
            log.info("sweep.finished", what=what, listed=len(leads), busy=busy, **dict(summary.outcomes))
        return bool(summary.outcomes)


async def _wait(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False
