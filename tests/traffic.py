"""A matching engine at a steady rate, and how soon an onlooker sees what came of each match."""

import asyncio
import statistics
import time
from collections.abc import Sequence

import psycopg

MATCH = (
    "INSERT INTO ops.identity_matching_jobs (source_type, source_id, status, matched_person_key) "
    "VALUES ('cabinet', %s, 'matched', md5(%s)::uuid)"
)
SEEN = "SELECT lead_id FROM ops.cabinet_lead_recovery_audit WHERE lead_id = ANY(%s)"


class Spread:
    """The median and the 99th percentile of so many seconds, in ms."""

    def __init__(self, seconds: Sequence[float]) -> None:
        self.p50 = 1e3 * statistics.median(seconds)
        self.p99 = 1e3 * statistics.quantiles(seconds, n=100)[98]

    def __str__(self) -> str:
        return f"p50 {self.p50:.1f} ms, p99 {self.p99:.1f} ms"


def latencies(url: str, lead_ids: Sequence[str], rate: float) -> Spread:
    """Match the leads, each in a transaction of its own, and see how long each takes from commit to its audit row.

    Whoever is slow is not waited for: the next match is committed in its time.
    """
    return asyncio.run(_latencies(url, lead_ids, rate))


async def _latencies(url: str, lead_ids: Sequence[str], rate: float) -> Spread:
    committed: dict[str, float] = {}
    async with asyncio.TaskGroup() as group:
        watch = group.create_task(_watch(url, committed, len(lead_ids)))
        group.create_task(_match(url, lead_ids, rate, committed))
    return Spread(watch.result())


async def _match(url: str, lead_ids: Sequence[str], rate: float, committed: dict[str, float]) -> None:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as engine:
        started = time.perf_counter()
        for number, lead_id in enumerate(lead_ids):
            await asyncio.sleep(max(0, started + number / rate - time.perf_counter()))
            await engine.execute(MATCH, (lead_id, lead_id))
            committed[lead_id] = time.perf_counter()


async def _watch(url: str, committed: dict[str, float], count: int) -> list[float]:
    """Look for the audit rows of what is committed and not seen yet, again and again."""
    seconds: list[float] = []
    async with await psycopg.AsyncConnection.connect(url, autocommit=True, prepare_threshold=0) as onlooker:
        while len(seconds) < count:
            if not committed:
                await asyncio.sleep(0.0005)
                continue
            cursor = await onlooker.execute(SEEN, (list(committed),))
            found = await cursor.fetchall()
            now = time.perf_counter()
            seconds += [now - committed.pop(lead_id) for (lead_id,) in found]
    return seconds
