"""How cost grows with the number of leads: the drain of a backlog of so many, and what is looked at once they stand."""

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator

from benchmarks.backlog import Drain, beside_one, beside_plain, plain_rate
from benchmarks.figure import Figure
from benchmarks.server import Databases
from consumer.connection import open_handler
from consumer.handlers.recover import Handler
from consumer.reports.impact import read_impact
from consumer.settings import Settings
from consumer.sweeper import list_all, list_due
from db import listing
from db.engine import open_engine
from tests.acceptance.test_backfill import load
from tests.database import Database

SLICE = Settings.reconcile_slice
BY_BUCKET = "SELECT impact_bucket, count(*) FROM ops.v_cabinet_identity_recovery_impact_14d GROUP BY 1"


def measure(databases: Databases, *, short: bool) -> Iterator[Figure]:
    smaller: Drain | None = None
    for leads in (10_000,) if short else (10_000, 100_000, 1_000_000):
        with databases.fresh() as backlog:
            load(backlog, leads)
            ceiling = plain_rate(databases, backlog, leads)
            with databases.copy(backlog) as database:
                drain = Drain(database)
                # Of a small backlog, the start of the program is the greater part.
                least = 0.45 if leads >= 100_000 else None
                yield beside_plain(f"backlog of {leads:,}", drain.rate, ceiling, least)
                if smaller and leads == 1_000_000:
                    yield from _beside_smaller(drain, smaller)
                database.run("VACUUM ANALYZE")
                yield from _looks(database, leads)
        smaller = drain


def _beside_smaller(drain: Drain, smaller: Drain) -> Iterator[Figure]:
    yield beside_one(f"{drain.leads:,}, beside {smaller.leads:,}", drain, smaller, least=0.85)
    grown = drain.memory_mb - smaller.memory_mb
    yield Figure("its memory", drain.memory_mb, "MB", f"{smaller.memory_mb:.0f} MB", grown, most=50)


def _looks(database: Database, leads: int) -> Iterator[Figure]:
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
