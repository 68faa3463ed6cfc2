"""How soon after its match's commit a recovery is visible to others, beside what PostgreSQL itself needs."""

import asyncio
import statistics
import time
from collections.abc import Iterator

import psycopg

from benchmarks.figure import Figure
from benchmarks.server import Databases
from tests.acceptance.test_daemon import unmatched_leads
from tests.database import Database
from tests.processes import Daemon

MATCH = (
    "INSERT INTO ops.identity_matching_jobs (source_type, source_id, status, matched_person_key) "
    "VALUES ('cabinet', %s, 'matched', md5(%s)::uuid)"
)
SEEN = "SELECT lead_id FROM ops.cabinet_lead_recovery_audit WHERE lead_id = ANY(%s)"


def measure(databases: Databases, *, short: bool) -> Iterator[Figure]:
    seconds = 5 if short else 10
    with databases.fresh() as database, Daemon(database.url, log_level="warning") as daemon:
        floor = asyncio.run(_floor(database.url))
        asyncio.run(_load(database, "warm", rate=20, seconds=3))
        slow = asyncio.run(_load(database, "slow", rate=20, seconds=seconds))
        beside = f"NOTIFY + commit {floor.p50:.2f} / {floor.p99:.2f} ms"
        yield Figure("latency p50 at 20/s", slow.p50, "ms", beside, slow.p50 / floor.p50, most=2.5)
        yield Figure("latency p99 at 20/s", slow.p99, "ms", beside, slow.p99 / floor.p99, most=5)
        for rate in (200, 1000):
            found = asyncio.run(_load(database, f"rate-{rate}", rate=rate, seconds=seconds))
            beside = f"p99 at 20/s {slow.p99:.2f} ms"
            yield Figure(f"latency p99 at {rate}/s", found.p99, "ms", beside, found.p99 / slow.p99, most=3)
            yield Figure(f"pending after {rate}/s", found.pending, "leads", held=found.pending, most=rate / 20)
        assert daemon.stop() == 0


class Spread:
    """The median and the 99th percentile of so many seconds, in ms."""

    def __init__(self, seconds: list[float], pending: int = 0) -> None:
        self.p50 = 1e3 * statistics.median(seconds)
        self.p99 = 1e3 * statistics.quantiles(seconds, n=100)[98]
        self.pending = pending


async def _floor(url: str) -> Spread:
    """A notification's way from one connection to another, and a commit of three rows, one after the other."""
    async with (
        await psycopg.AsyncConnection.connect(url, autocommit=True) as sender,
        await psycopg.AsyncConnection.connect(url, autocommit=True) as receiver,
    ):
        await sender.execute("CREATE TABLE public.floor (a bigint, b int, c text, PRIMARY KEY (a, b))")
        await receiver.execute("LISTEN floor")
        seconds = []
        for number in range(300):
            started = time.perf_counter()
            await sender.execute("NOTIFY floor")
            async for _ in receiver.notifies(stop_after=1):
                pass
            async with sender.transaction():
                for row in range(3):
                    await sender.execute("INSERT INTO public.floor VALUES (%s, %s, 'some text')", (number, row))
            seconds.append(time.perf_counter() - started)
        return Spread(seconds[50:])


async def _load(database: Database, prefix: str, rate: int, seconds: int) -> Spread:
    """Commit matches at the rate, one transaction each, and watch for their audit rows."""
    lead_ids = unmatched_leads(database, prefix, rate * seconds)
    committed: dict[str, float] = {}
    async with asyncio.TaskGroup() as group:
        watch = group.create_task(_watch(database.url, committed, len(lead_ids)))
        group.create_task(_match(database.url, lead_ids, rate, committed))
    pending = database.value("SELECT count(*) FROM ops.cabinet_recovery_outbox")
    return Spread(watch.result(), pending)


async def _match(url: str, lead_ids: list[str], rate: int, committed: dict[str, float]) -> None:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as engine:
        started = time.perf_counter()
        for number, lead_id in enumerate(lead_ids):
            await asyncio.sleep(max(0, started + number / rate - time.perf_counter()))
            await engine.execute(MATCH, (lead_id, lead_id))
            committed[lead_id] = time.perf_counter()


async def _watch(url: str, committed: dict[str, float], count: int) -> list[float]:
    """Look for the audit rows of what is committed and not seen yet, again and again."""
    latencies: list[float] = []
    async with await psycopg.AsyncConnection.connect(url, autocommit=True, prepare_threshold=0) as onlooker:
        while len(latencies) < count:
            if not committed:
                await asyncio.sleep(0.0005)
                continue
            cursor = await onlooker.execute(SEEN, (list(committed),))
            found = await cursor.fetchall()
            now = time.perf_counter()
            latencies += [now - committed.pop(lead_id) for (lead_id,) in found]
    return latencies
