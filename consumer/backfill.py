"""Recovery by hand, by cron or from Python: one pass over everything that is due, or over leads by name."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress

import psycopg

from consumer.connection import open_handler
from consumer.due import Agenda, DueLead, DueList
from consumer.handlers.outcome import Batch, Outcome, Recovery, Summary
from consumer.handlers.recover import Asked, Handler
from consumer.interruption import Interruption
from consumer.settings import Settings
from consumer.sweeper import list_all, recover_batch
from consumer.throttle import Bounds, Throttle
from db.connect import TableBusy
from db.liveness import sever

BUSY_ROUNDS = 5
BUSY_PAUSE_SECONDS = 0.3
LOOK_PAUSE_SECONDS, LOOK_ROUNDS = 0.2, 3000
LIST_AT_ONCE = 1_000_000
# While one's batch is on the server, the answer to the other's is read, and the next one asked.
HANDLERS = 2

Progress = Callable[[int, int], None]


def backfill(
    settings: Settings,
    limit: int,
    on_progress: Progress = lambda _done, _total: None,
    bounds: Bounds | None = None,
    interruption: Interruption | None = None,
) -> Summary:
    """Recover up to `limit` due leads, the most urgent first; `on_progress` is told (done, total) after each batch.

    A lead that another transaction holds is tried again a few times, within the same bounds, and then left, pending,
    to whoever sweeps next: the summary's `busy` counts those.
    With an `interruption`, SIGINT and SIGTERM end it after the batches in hand; what it returns was done until then.
    Raises ValueError for a limit below 1, and db.connect.DatabaseError or psycopg.Error where the database fails:
    what was done until then stays done, and the next run goes on from there.
    """
    if limit < 1:
        raise ValueError(f"limit must be 1 or more, not {limit}")
    return asyncio.run(_backfill(_Backfill(settings, on_progress, bounds or Bounds(), interruption), limit))


def reprocess(
    settings: Settings, lead_ids: Sequence[str], on_progress: Progress = lambda _done, _total: None
) -> list[Recovery]:
    """Recover the leads by name, whatever became of them before; parked ones start over.

    One answer for each, in their order. A lead that another transaction holds all the while has the answer
    `failed`; its event stands, and the next sweep takes it. Raises as `backfill` does.
    """
    return asyncio.run(_reprocess(settings, list(dict.fromkeys(lead_ids)), on_progress))


async def _backfill(run: "_Backfill", limit: int) -> Summary:
    async with AsyncExitStack() as stack:
        if run.takes_signals:
            stack.enter_context(run.interruption.heeded())
        handlers = [await _opened(stack, run.settings) for _ in range(HANDLERS)]
        await run.work(handlers, limit)
    return run.summary


async def _opened(connections: AsyncExitStack, settings: Settings) -> Handler:
    handler = await open_handler(settings, "sweep")
    await connections.enter_async_context(handler.connection)
    return handler


class _Backfill:
    """One pass, and how far it has come."""

    def __init__(
        self, settings: Settings, on_progress: Progress, bounds: Bounds, interruption: Interruption | None
    ) -> None:
        self.settings = settings
        self.summary = Summary()
        self.takes_signals = interruption is not None
        self.interruption = interruption or Interruption()
        self._throttle = Throttle(bounds, self.interruption.rest)
        self._on_progress = on_progress
        self._busy: list[str] = []
        self._done = self._total = 0

    async def work(self, handlers: Sequence[Handler], limit: int) -> None:
        goes_on = True
        while goes_on and self._done < limit and not self.interruption.is_asked:
            moved, settled = self.summary.writes["link", "move"], self.summary.outcomes.total()
            leads = await self._list(handlers[0], min(limit - self._done, LIST_AT_ONCE))
            self._total = self._done + len(leads)
            self._on_progress(self._done, self._total)
            self._busy.clear()
            await self._work_side_by_side(handlers, leads)
            await self._work_busy(handlers[0])
            # A link that moves may free an origin that another lead waits for: then there is more than was listed.
            goes_on = self.summary.writes["link", "move"] > moved or (
                len(leads) == LIST_AT_ONCE and self.summary.outcomes.total() > settled
            )
        self.summary.busy = len(self._busy)

    async def _list(self, handler: Handler, limit: int) -> DueList:
        """List what is due; nothing, where we are asked to stop meanwhile: it may take minutes, and only reads."""
        looking = asyncio.create_task(_list_patiently(handler, limit))
        interrupted = asyncio.create_task(self.interruption.came())
        await asyncio.wait({looking, interrupted}, return_when=asyncio.FIRST_COMPLETED)
        interrupted.cancel()
        if looking.done():
            return looking.result()
        # Not a cancellation: psycopg would ask the server, which may be what hangs.
        sever(handler.connection)
        with suppress(psycopg.Error):
            await looking
        return DueList()

    async def _work_side_by_side(self, handlers: Sequence[Handler], leads: Sequence[DueLead]) -> None:
        """Have each handler take the next part whenever it is free.

        Where one fails, the others end with the batch in hand, and then its error is raised.
        """
        agenda = Agenda(leads, self._throttle.batch_size(self.settings.batch_size))

        async def work(handler: Handler) -> None:
            try:
                while part := agenda.take():
                    await self._throttle.admit(handler, len(part))
                    if self.interruption.is_asked:
                        break
                    batch = await recover_batch(handler, part)
                    self._note(len(part), batch)
                    # Another sweep is at work here: to follow on its heels would only be in its way.
                    if 2 * len(batch.recoveries) < len(part):
                        agenda.jump()
            finally:
                agenda.drop()

        ended = await asyncio.gather(*map(work, handlers), return_exceptions=True)
        for error in filter(None, ended):
            raise error

    def _note(self, asked: int, batch: Batch) -> None:
        self.summary.add(batch.recoveries)
        self._busy.extend(batch.busy)
        self._done += asked - len(batch.busy)
        self._on_progress(self._done, self._total)

    async def _work_busy(self, handler: Handler) -> None:
        """Come back to what others held, a few times; by one handler, for two might be in each other's way again."""
        for attempt in range(BUSY_ROUNDS):
            if not self._busy or not await self.interruption.rest(attempt * BUSY_PAUSE_SECONDS):
                return
            leads = [DueLead(lead_id, has_event=False) for lead_id in self._busy]
            self._busy.clear()
            await self._work_side_by_side([handler], leads)


async def _list_patiently(handler: Handler, limit: int) -> DueList:
    # Polled: a session that waits inside a statement holds back the server's vacuum.
    for _ in range(LOOK_ROUNDS):
        with suppress(psycopg.errors.LockNotAvailable):
            if (leads := await list_all(handler, limit)) is not None:
                return leads
        await asyncio.sleep(LOOK_PAUSE_SECONDS)
    raise TableBusy("a table stayed locked, or somebody else looks at all leads all the while: try again later")


async def _reprocess(settings: Settings, lead_ids: list[str], on_progress: Progress) -> list[Recovery]:
    handler = await open_handler(settings, "reprocess")
    async with handler.connection:
        answers: dict[str, Recovery] = {}
        for start in range(0, len(lead_ids), settings.batch_size):
            part = lead_ids[start : start + settings.batch_size]
            batch = await _recover_patiently(handler, part)
            answers |= {recovery.lead_id: recovery for recovery in batch.recoveries}
            if batch.busy:
                await handler.ask(batch.busy, Asked.BY_OPERATOR)
            answers |= {
                lead_id: Recovery(lead_id, Outcome.FAILED, "another transaction holds it; the next sweep takes it")
                for lead_id in batch.busy
            }
            on_progress(start + len(part), len(lead_ids))
    unknown = "there is no lead with this lead_id (COALESCE(external_id, id))"
    return [answers.get(lead_id) or Recovery(lead_id, Outcome.UNKNOWN_LEAD, unknown) for lead_id in lead_ids]


async def _recover_patiently(handler: Handler, lead_ids: list[str]) -> Batch:
    batch = Batch(busy=lead_ids)
    for attempt in range(BUSY_ROUNDS):
        if not batch.busy:
            break
        await asyncio.sleep(attempt * BUSY_PAUSE_SECONDS)
        batch = Batch(batch.recoveries) + await handler.recover(batch.busy, Asked.BY_OPERATOR)
    return batch
