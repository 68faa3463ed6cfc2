"""What it costs to look at so many leads that all stand: for what is due, at all of them, and at the impact."""

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator

from benchmarks.figure import Figure
from consumer.connection import open_handler
from consumer.handlers.recover import Handler
from consumer.reports.impact import read_impact
from consumer.settings import Settings
from consumer.sweeper import list_all, list_due
from db import listing
from db.engine import open_engine
from tests.database import Database

SLICE = Settings.reconcile_slice
BY_BUCKET = "SELECT impact_bucket, count(*) FROM ops.v_cabinet_identity_recovery_impact_14d GROUP BY 1"


def measure(database: Database, leads: int) -> Iterator[Figure]:
    database.run("VACUUM ANALYZE")
    due = asyncio.run(_milliseconds(database, lambda handler: list_due(handler, listing.LIST_PENDING, limit=100_000)))
    yield Figure(f"due check, {leads:,} recovered", due, "ms", held=due, most=5)
    middle = {"after": leads // 2, "slice_end": leads // 2 + SLICE}
    part = asyncio.run(_milliseconds(database, lambda handler: list_due(handler, listing.LIST_SLICE, **middle)))
    yield Figure(f"slice of {SLICE:,} of {leads:,}", part, "ms", held=part, most=20)
    full = asyncio.run(_milliseconds(database, lambda handler: list_all(handler, 100_000), rounds=1))
    yield Figure(f"look at all {leads:,}", full, "ms")
    seconds = _seconds(lambda: database.run(BY_BUCKET))
    yield Figure(f"impact of {leads:,} by bucket", seconds, "s", held=seconds, most=2)
    with open_engine(database.settings().database, "bench") as engine:
        seconds = _seconds(lambda: read_impact(engine))
    yield Figure(f"whole impact report of {leads:,}", seconds, "s")


def _seconds(look: Callable[[], object]) -> float:
    started = time.perf_counter()
    look()
    return time.perf_counter() - started


async def _milliseconds(database: Database, look: Callable[[Handler], Awaitable[object]], rounds: int = 20) -> float:
    handler = await open_handler(database.settings(), "bench")
    async with handler.connection:
        seconds = []
        for _ in range(rounds + 1):
            started = time.perf_counter()
            await look(handler)
            seconds.append(time.perf_counter() - started)
        return 1e3 * statistics.median(seconds[1:])
