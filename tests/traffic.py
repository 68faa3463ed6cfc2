"""Matches for a daemon to recover: some, many, or at a steady rate, and how soon an onlooker sees what came of each."""

import asyncio
import statistics
import time
from collections.abc import Sequence
from datetime import datetime

import psycopg

from tests.database import Database
from tests.processes import Daemon, eventually

# No periodic sweep gets in the way, and each lead is told of, whoever recovered it.
QUIET = {"sweep_interval_seconds": "3600", "log_level": "debug", "reconnect_max_seconds": "1"}
MATCH = (
    "INSERT INTO ops.identity_matching_jobs (source_type, source_id, status, matched_person_key) "
    "VALUES ('cabinet', %s, 'matched', md5(%s)::uuid)"
)
WRITERS = 8  # one alone would wait for the disk after each match, and never come to a thousand a second
SEEN = "SELECT lead_id FROM ops.cabinet_lead_recovery_audit WHERE lead_id = ANY(%s)"


def unmatched_leads(database: Database, prefix: str, size: int) -> list[str]:
    """Add leads and, for each, the person that `match` will find."""
    lead_ids = [f"{prefix}-{number}" for number in range(size)]
    database.run(
        "INSERT INTO canon.identity_registry (person_key, confidence_level) "
        "SELECT md5(lead_id)::uuid, 'HIGH' FROM unnest(%s::text[]) AS lead_id",
        lead_ids,
    )
    database.run(
        "INSERT INTO public.module_ct_cabinet_leads (external_id, lead_created_at) "
        "SELECT lead_id, now() FROM unnest(%s::text[]) AS lead_id",
        lead_ids,
    )
    return lead_ids


def match(database: Database, lead_ids: Sequence[str]) -> None:
    """The engine finds the leads' persons, all in one statement."""
    database.run(
        "INSERT INTO ops.identity_matching_jobs (source_type, source_id, status, matched_person_key) "
        "SELECT 'cabinet', lead_id, 'matched', md5(lead_id)::uuid FROM unnest(%s::text[]) AS lead_id",
        list(lead_ids),
    )


def matched_one_by_one(database: Database, prefix: str, size: int) -> list[str]:
    lead_ids = unmatched_leads(database, prefix, size)
    for lead_id in lead_ids:
        match(database, [lead_id])
    return lead_ids


def matched_until_worked(database: Database, daemon: Daemon) -> list[str]:
    """Match leads until the worker recovers one: it connects by itself, and until it does, sweeps stand in."""
    lead_ids: list[str] = []
    while not daemon.events("lead.recovered", level="info"):  # what a sweep recovers is told at level debug
        lead_ids += matched_one_by_one(database, f"before-{len(lead_ids)}", 1)
        daemon.wait_for_leads(lead_ids)
    return lead_ids


def slow_lead(database: Database, seconds: int = 1) -> str:
    """A lead whose batch is long in hand: the host takes its time over the origin."""
    (lead_id,) = unmatched_leads(database, "slow", 1)
    database.connection.execute(
        "CREATE FUNCTION public.take_time() RETURNS trigger LANGUAGE plpgsql AS "
        f"'BEGIN PERFORM pg_sleep({seconds}); RETURN new; END'".encode()
    )
    database.run("""
        CREATE TRIGGER take_time BEFORE INSERT ON canon.identity_origin
        FOR EACH ROW WHEN (new.origin_source_id = 'slow-0') EXECUTE FUNCTION public.take_time()
    """)
    return lead_id


def audits(database: Database) -> dict[str, tuple[datetime, datetime]]:
    """When each lead was first and last recovered."""
    rows = database.run("SELECT * FROM ops.cabinet_lead_recovery_audit")
    return {row["lead_id"]: (row["first_recovered_at"], row["last_recovered_at"]) for row in rows}


def wait_until_in_hand(database: Database) -> None:
    eventually(
        lambda: database.run(
            "SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()"
        )
    )


class Spread:
    """The median and the 99th percentile of so many seconds, in ms, and at what rate they came, each second."""

    def __init__(self, seconds: Sequence[float], rate: float = 0) -> None:
        self.rate = rate
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
    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        watch = group.create_task(_watch(url, committed, len(lead_ids)))
        for writer in range(WRITERS):
            timetable = {started + n / rate: lead_ids[n] for n in range(writer, len(lead_ids), WRITERS)}
            group.create_task(_match(url, timetable, committed))
    return Spread(watch.result(), len(lead_ids) / (time.perf_counter() - started))


async def _match(url: str, timetable: dict[float, str], committed: dict[str, float]) -> None:
    """Commit each lead's match when its time has come."""
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as engine:
        for due, lead_id in timetable.items():
            await asyncio.sleep(max(0, due - time.perf_counter()))
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
