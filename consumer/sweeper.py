"""The sweep: whatever is due and was not heard of, the most urgent first."""

import asyncio
import math
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, LiteralString, TypeVar

import psycopg
import structlog

from consumer.due import DueLead, DueList
from consumer.handlers.outcome import Batch, Outcome, Summary
from consumer.handlers.recover import Asked, Handler
from consumer.log import log_recoveries
from consumer.overview import Opener, Overview
from db import listing
from db.liveness import while_idle
from db.transaction import run_together

log = structlog.get_logger(__name__)

LOOK_TIMEOUT_SECONDS = 300  # at all leads
LIST_TIMEOUT_SECONDS = 30  # of what has events, waits, or is in a slice
LIST_LIMIT = 100_000
WAITING_AT_ONCE = 10_000
SHORTEST_PAUSE_SECONDS = 1.0
LOOK_PATIENCE_SECONDS = 1.0
LOOK_HINT = (
    "what no event tells of is now found in slices, one in each interval: raise CABINET_RECOVERY_RECONCILE_SLICE"
)

Listed = TypeVar("Listed")


async def list_due(handler: Handler, statement: LiteralString, **parameters: int | str | None) -> DueList:
    """List due leads, open windows first: once, so that what is worked meanwhile cannot shift the order."""
    set_up = [listing.SET_UP_BY_KEY] if statement in listing.BY_KEY else []
    *_, rows = await _listed(handler, [*set_up, statement], parameters, LIST_TIMEOUT_SECONDS)
    return DueList(rows)


async def list_all(handler: Handler, limit: int) -> DueList | None:
    """List what is due by event or by state alone; None while somebody else is looking at all leads.

    That look is the one thing here whose cost grows with the table: one consumer at a time.
    """
    told, rows = await _listed(handler, [listing.LOOK_ALONE, listing.LIST_ALL], {"limit": limit}, LOOK_TIMEOUT_SECONDS)
    return DueList(rows) if told[0]["is_alone"] else None


async def _listed(
    handler: Handler,
    statements: Sequence[LiteralString],
    parameters: Mapping[str, int | str | None],
    timeout_seconds: int,
) -> list[list[dict[str, Any]]]:
    _, *found = await run_together(
        handler.connection,
        [listing.SET_UP_LISTING, *statements],
        {**parameters, "chunk": listing.CHUNK, "statement_timeout_ms": 1000 * timeout_seconds},
        timeout_seconds,
    )
    return found


async def recover_batch(handler: Handler, leads: Sequence[DueLead]) -> Batch:
    """Have the leads recovered; those without an event are worked by their state, as they were listed."""
    asked = None if all(lead.has_event for lead in leads) else Asked.BY_SWEEP
    return await handler.recover([lead.lead_id for lead in leads], asked)


def in_batches(leads: Sequence[DueLead], size: int) -> Iterator[Sequence[DueLead]]:
    for start in range(0, len(leads), size):
        yield leads[start : start + size]


@dataclass(frozen=True)
class Pace:
    """How often and how much: between sweeps, between those while the daemon is degraded, in a batch and in a slice."""

    interval_seconds: float
    degraded_interval_seconds: float
    batch_size: int
    slice_size: int


class Sweeper:
    """Sweeps at once, then whenever woken and at the latest after the interval; never more than once a second.

    The interval is a short one while `is_degraded`: then sweeps stand in for the listener or the worker.

    Each sweep takes what has events and what waits for a lead or a person to arrive. Beside the first ones, on a
    connection of its own, every lead's state is looked at; after that, once in an interval, a slice of all leads
    in turn, so that what no event told of is found in the end.
    """

    def __init__(
        self, pace: Pace, is_degraded: Callable[[], bool], open_handler: Opener, on_looked: Callable[[], None]
    ) -> None:
        self.outcomes: Counter[Outcome] = Counter()
        self._pace = pace
        self._on_looked = on_looked
        self._is_degraded = is_degraded
        self._slice_after = 0
        self._waiting_after: str | None = None
        self._slice_due = 0.0
        self._saw_every_lead = False
        self._overview = Overview(open_handler, self._list_all)
        self._wanted = asyncio.Event()
        self._alarms: set[int] = set()
        self._progressed: Callable[[], None] = lambda: None
        self.is_looking = False
        self._closing = asyncio.Event()

    def wake(self, after_seconds: float = 0) -> None:
        """Sweep soon, or after a while; each wish holds."""
        if after_seconds <= 0:
            self._wanted.set()
            return
        loop = asyncio.get_running_loop()
        second = math.ceil(loop.time() + after_seconds)  # together, where there are many
        if second not in self._alarms:
            self._alarms.add(second)
            loop.call_at(second, self._ring, second)

    def _ring(self, second: int) -> None:
        self._alarms.discard(second)
        self._wanted.set()

    def close(self) -> None:
        """End `use` after the batch in hand."""
        self._closing.set()
        self._wanted.set()

    async def use(self, handler: Handler, on_progress: Callable[[], None]) -> None:
        """Sweep until closed; raises psycopg.Error where the database fails a sweep."""
        self._progressed = on_progress
        try:
            while not self._closing.is_set():
                await self._sweep_and_rest(handler)
        finally:
            await self._overview.abandon()

    async def _sweep_and_rest(self, handler: Handler) -> None:
        self._wanted.clear()
        try:
            await self._sweep(handler)
        except psycopg.errors.LockNotAvailable:
            # A table is locked, by the host's DDL perhaps: with what could not be listed the next one begins.
            log.debug("sweep.postponed")
        else:
            self._progressed()
        pause = self._next_pause()
        await while_idle(handler.connection, partial(self._rest, pause), pause)

    def _next_pause(self) -> float:
        interval = self._pace.degraded_interval_seconds if self._is_degraded() else self._pace.interval_seconds
        return interval * random.uniform(0.9, 1.1)  # noqa: S311 # jitter is no secret

    async def _rest(self, seconds: float) -> None:
        """Rest until woken or until the pause is over."""
        await _wait(self._closing, SHORTEST_PAUSE_SECONDS)
        await _wait(self._wanted, seconds - SHORTEST_PAUSE_SECONDS)

    async def _sweep(self, handler: Handler) -> None:
        if not self._saw_every_lead:
            self._overview.begin()
        await self._sweep_list("events", handler, self._list_events)
        if not self._closing.is_set():
            await self._sweep_waiting(handler)
        now = asyncio.get_running_loop().time()
        if not self._saw_every_lead:
            await self._sweep_everything(handler)
        elif now >= self._slice_due:
            self._slice_due = now + self._pace.interval_seconds * 0.9
            await self._sweep_slice(handler)

    async def _sweep_everything(self, handler: Handler) -> None:
        """Do what is due of all leads, once they were looked at; where somebody else does that, the next sweep tries.

        Most looks are over within moments: they are waited for.
        """
        patience = partial(self._overview.take, LOOK_PATIENCE_SECONDS, self.wake)
        if (leads := await while_idle(handler.connection, patience, LOOK_PATIENCE_SECONDS)) is None:
            return
        progressed = await self._recover("everything", handler, leads)
        self._saw_every_lead = not self._closing.is_set() and len(leads) < LIST_LIMIT
        self._slice_due = asyncio.get_running_loop().time() + self._pace.interval_seconds * 0.9
        if progressed and not self._saw_every_lead:
            self.wake()

    async def _list_events(self, handler: Handler) -> DueList:
        return await self._look(list_due(handler, listing.LIST_PENDING, limit=LIST_LIMIT))

    async def _list_all(self, handler: Handler) -> DueList | None:
        try:
            leads = await list_all(handler, LIST_LIMIT)
        except psycopg.errors.QueryCanceled:
            # Another would take as long. What it did not find, the slices find in turn.
            log.warning("look.timed_out", seconds=LOOK_TIMEOUT_SECONDS, hint=LOOK_HINT)
            leads = DueList()
        self._on_looked()  # or somebody else looks
        return leads

    async def _look(self, leads: Awaitable[Listed]) -> Listed:
        """List, which only reads and may take long: whoever closes us then need not wait."""
        self.is_looking = True
        try:
            return await leads
        finally:
            self.is_looking = False

    async def _sweep_list(
        self, what: str, handler: Handler, list_leads: Callable[[Handler], Awaitable[DueList]]
    ) -> None:
        """List and recover until nothing new is listed."""
        while not self._closing.is_set():
            leads = await list_leads(handler)
            progressed = await self._recover(what, handler, leads)
            if len(leads) < LIST_LIMIT or not progressed:
                return

    async def _sweep_waiting(self, handler: Handler) -> None:
        """Look at what waits: at all of it, unless that is so much that it has to be done in turn."""
        bounds = {"after": self._waiting_after, "size": WAITING_AT_ONCE}
        ((found,),) = await _listed(handler, [listing.WAITING_END], bounds, LIST_TIMEOUT_SECONDS)
        if (end := found["slice_end"]) is not None:
            waiting = list_due(handler, listing.LIST_WAITING, after=self._waiting_after, slice_end=end)
            await self._recover("waiting", handler, await self._look(waiting))
        self._waiting_after = end if found["leads"] == WAITING_AT_ONCE else None

    async def _sweep_slice(self, handler: Handler) -> None:
        bounds = {"after": self._slice_after, "size": self._pace.slice_size}
        ((found,),) = await _listed(handler, [listing.SLICE_END], bounds, LIST_TIMEOUT_SECONDS)
        if (end := found["slice_end"]) is not None:
            slice_of_all = list_due(handler, listing.LIST_SLICE, after=self._slice_after, slice_end=end)
            await self._recover("slice", handler, await self._look(slice_of_all))
        self._slice_after = end or 0

    async def _recover(self, what: str, handler: Handler, leads: Sequence[DueLead]) -> bool:
        """Work the list to its end, or to the batch in which we are closed; tell whether anything was settled."""
        summary = Summary()
        busy = 0
        for part in in_batches(leads, self._pace.batch_size):
            if self._closing.is_set():
                break
            batch = await recover_batch(handler, part)
            log_recoveries(batch, level="debug")  # they may be a million
            summary.add(batch.recoveries)
            busy += len(batch.busy)
            self._progressed()
            if batch.busy and not all(lead.has_event for lead in part):
                # What no event tells of would only be found when all are looked at again.
                await handler.ask(batch.busy, Asked.BY_SWEEP)
            for recovery in batch.recoveries:
                if recovery.retry_seconds is not None:
                    self.wake(recovery.retry_seconds)
        if busy or summary.writes["link", "move"]:
            self.wake()
        self.outcomes.update(summary.outcomes)
        if leads:
            tell = log.info if summary.outcomes else log.debug  # what somebody holds is seen every second
            tell("sweep.finished", what=what, listed=len(leads), busy=busy, **dict(summary.outcomes))
        return bool(summary.outcomes)


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass
