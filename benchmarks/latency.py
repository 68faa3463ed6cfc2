"""How soon after its match's commit a recovery is visible to others, beside what PostgreSQL itself needs."""

import asyncio
import time
from collections.abc import Iterator

import psycopg

from benchmarks.figure import Figure
from benchmarks.server import Databases
from tests.database import Database
from tests.processes import Daemon
from tests.traffic import Spread, latencies, unmatched_leads


def measure(databases: Databases, *, short: bool) -> Iterator[Figure]:
    seconds = 5 if short else 10
    with databases.fresh() as database, Daemon(database.url, log_level="warning") as daemon:
        floor = asyncio.run(_floor(database.url, rate=20))
        _load(database, "warm", rate=20, seconds=3)
        slow = _load(database, "slow", rate=20, seconds=seconds)
        beside = f"NOTIFY + commit {floor.p50:.2f} / {floor.p99:.2f} ms"
        yield Figure("latency p50 at 20/s", slow.p50, "ms", beside, slow.p50 / floor.p50, most=2.5)
        yield Figure("latency p99 at 20/s", slow.p99, "ms", beside, slow.p99 / floor.p99, most=5)
        for rate in (200, 1000):
            found = _load(database, f"rate-{rate}", rate=rate, seconds=seconds)
            beside = f"p99 at 20/s {slow.p99:.2f} ms; {found.rate:,.0f}/s came"
            yield Figure(f"latency p99 at {rate}/s", found.p99, "ms", beside, found.p99 / slow.p99, most=3)
            pending = database.value("SELECT count(*) FROM ops.cabinet_recovery_outbox")
            yield Figure(f"pending after {rate}/s", pending, "leads", held=pending, most=rate / 20)
        assert daemon.stop() == 0


async def _floor(url: str, rate: float) -> Spread:
    """A notification's way from one connection to another, and a commit of three rows, at the pace of the matches.

    At their pace, for whoever was idle, processor and disk as well, takes longer than whoever is at it all the time.
    """
    async with (
        await psycopg.AsyncConnection.connect(url, autocommit=True) as sender,
        await psycopg.AsyncConnection.connect(url, autocommit=True) as receiver,
    ):
        await sender.execute("CREATE TABLE public.floor (a bigint, b int, c text, PRIMARY KEY (a, b))")
        await receiver.execute("LISTEN floor")
        seconds = []
        for number in range(150):
            await asyncio.sleep(1 / rate)
            started = time.perf_counter()
            await sender.execute("NOTIFY floor")
            async for _ in receiver.notifies(stop_after=1):
                pass
            async with sender.transaction():
                for row in range(3):
                    await sender.execute("INSERT INTO public.floor VALUES (%s, %s, 'some text')", (number, row))
            seconds.append(time.perf_counter() - started)
        return Spread(seconds[50:])


def _load(database: Database, prefix: str, rate: int, seconds: int) -> Spread:
    """Commit matches at the rate, one transaction each, and watch for their audit rows."""
    return latencies(database.url, unmatched_leads(database, prefix, rate * seconds), rate)
