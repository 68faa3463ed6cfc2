"""Recovery by hand, by cron or from Python: one pass over everything that is due, or over leads by name."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress

import psycopg

from consumer.connection import open_handler
from consumer.handlers.outcome import Batch, Outcome, Recovery, Summary
from consumer.handlers.recover import Asked, Handler
from consumer.settings import Settings
from consumer.sweeper import DueLead, in_batches, list_all, recover_batch
from db.connect import TableBusy

BUSY_ROUNDS = 5
BUSY_PAUSE_SECONDS = 0.3
LOOK_PAUSE_SECONDS, LOOK_ROUNDS = 0.2, 3000
# While one's batch is on the server, the answer to the other's is read, and the next one asked.
HANDLERS = 2

Progress = Callable[[int, int], None]


def backfill(settings: Settings, limit: int, on_progress: Progress = lambda _done, _total: None) -> Summary:
    """Recover up to `limit` due leads, the most urgent first; `on_progress` is told (done, total) after each batch.

    A lead that another transaction holds is tried again a few times and then left, pending, to whoever sweeps next.
    Raises ValueError for a limit below 1, and db.connect.DatabaseError or psycopg.Error where the database fails:
    what was done until then stays done, and the next run goes on from there.
    """
    if limit < 1:
        raise ValueError(f"limit must be 1 or more, not {limit}")
    return asyncio.run(_backfill(settings, limit, on_progress))


def reprocess(
    settings: Settings, lead_ids: Sequence[str], on_progress: Progress = lambda _done, _total: None
) -> list[Recovery]:
    """Recover the leads by name, whatever became of them before; parked ones start over.

    One answer for each, in their order. A lead that another transaction holds all the while has the answer
    `failed`; its event stands, and the next sweep takes it. Raises as `backfill` does.
    """
    return asyncio.run(_reprocess(settings, list(dict.fromkeys(lead_ids)), on_progress))


async def _backfill(settings: Settings, limit: int, on_progress: Progress) -> Summary:
    async with AsyncExitStack() as connections:
        handlers = [await _opened(connections, settings) for _ in range(HANDLERS)]
        summary, busy, done, total, moved = Summary(), list[str](), 0, 0, -1

        def note(asked: int, batch: Batch) -> None:
            nonlocal done
            summary.add(batch.recoveries)
            busy.extend(batch.busy)
            done += asked
            on_progress(done, total)

        # A link that moves may free an origin that another lead waits for: then there is more than was listed.
        while done < limit and moved < summary.writes["link", "move"]:
            moved = summary.writes["link", "move"]
            leads = await _list_patiently(handlers[0], limit - done)
            total = done + len(leads)
            on_progress(done, total)
            await _work_side_by_side(handlers, deque(in_batches(leads, settings.batch_size)), note)
            summary.add((await _recover_patiently(handlers[0], busy, Asked.BY_SWEEP)).recoveries)
            busy.clear()
        return summary


async def _opened(connections: AsyncExitStack, settings: Settings) -> Handler:
    handler = await open_handler(settings, "sweep")
    await connections.enter_async_context(handler.connection)
    return handler


async def _list_patiently(handler: Handler, limit: int) -> list[DueLead]:
    # Polled: a session that waits inside a statement holds back the server's vacuum.
    for _ in range(LOOK_ROUNDS):
        with suppress(psycopg.errors.LockNotAvailable):
            if (leads := await list_all(handler, limit)) is not None:
                return leads
        await asyncio.sleep(LOOK_PAUSE_SECONDS)
    raise TableBusy("a table stayed locked, or somebody else looks at all leads all the while: try again later")


async def _work_side_by_side(
    handlers: Sequence[Handler], parts: deque[Sequence[DueLead]], note: Callable[[int, Batch], None]
) -> None:
    """Have each handler take the next part whenever it is free.

    Where one fails, the others end with the batch in hand, and then its error is raised.
    """

    async def work(handler: Handler) -> None:
        try:
            while parts:
                part = parts.popleft()
                note(len(part), await recover_batch(handler, part))
        finally:
            parts.clear()

    ended = await asyncio.gather(*map(work, handlers), return_exceptions=True)
    for error in filter(None, ended):
        raise error


async def _reprocess(settings: Settings, lead_ids: list[str], on_progress: Progress) -> list[Recovery]:
    handler = await open_handler(settings, "reprocess")
    async with handler.connection:
        answers: dict[str, Recovery] = {}
        for start in range(0, len(lead_ids), settings.batch_size):
            part = lead_ids[start : start + settings.batch_size]
            batch = await _recover_patiently(handler, part, Asked.BY_OPERATOR)
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


async def _recover_patiently(handler: Handler, lead_ids: list[str], asked: Asked) -> Batch:
    batch = Batch(busy=lead_ids)
    for attempt in range(BUSY_ROUNDS):
        if not batch.busy:
            break
        await asyncio.sleep(attempt * BUSY_PAUSE_SECONDS)
        batch = Batch(batch.recoveries) + await handler.recover(batch.busy, asked)
    return batch
