"""What it costs when nothing happens, and how that grows with the number of leads."""

import asyncio
import os
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

from benchmarks.figure import Figure
from benchmarks.server import Databases
from consumer.connection import open_handler
from consumer.handlers.recover import Handler
from consumer.reports.impact import read_impact
from consumer.settings import Settings
from consumer.sweeper import list_all, list_due
from db import listing
from db.engine import open_engine
from tests.database import Database
from tests.processes import Daemon

SLICE = Settings.reconcile_slice
BY_BUCKET = "SELECT impact_bucket, count(*) FROM ops.v_cabinet_identity_recovery_impact_14d GROUP BY 1"


def measure(databases: Databases, *, short: bool) -> Iterator[Figure]:
    with databases.fresh() as database:
        yield from _idle_daemon(database, seconds=15 if short else 30)
    for leads in (10_000,) if short else (10_000, 100_000, 1_000_000):
        with databases.fresh() as database:
            load_recovered(database, leads)
            yield from _looks(database, leads)


def _idle_daemon(database: Database, seconds: int) -> Iterator[Figure]:
    with Daemon(database.url) as daemon:
        daemon.wait_for("listener.proved")
        time.sleep(11)  # a session tells of its transactions up to ten seconds late
        processor, transactions = _processor_seconds(daemon.process.pid), _transactions(database)
        time.sleep(seconds)
        processor = _processor_seconds(daemon.process.pid) - processor
        transactions = _transactions(database) - transactions - 1  # ours, that looked
        assert daemon.stop() == 0
    share = 100 * processor / seconds
    yield Figure("idle daemon, of a core", share, "%", held=share, most=0.3)
    rate = transactions / seconds
    yield Figure("idle daemon, transactions", rate, "a second", held=rate, most=1)


def _processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _transactions(database: Database) -> int:
    database.run("SELECT pg_stat_clear_snapshot()")
    return int(
        database.value("SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()")
    )


def load_recovered(database: Database, leads: int) -> None:
    """Leads that all have their link, origin and audit row."""
    database.run("ALTER TABLE canon.identity_links DISABLE TRIGGER USER")
    database.run(
        "INSERT INTO public.module_ct_cabinet_leads (external_id, lead_created_at) "
        "SELECT 'ext-' || n, now() - n %% 45 * interval '1 day' FROM generate_series(1, %s) AS n",
        leads,
    )
    database.run(
        "INSERT INTO canon.identity_registry (person_key, confidence_level) "
        "SELECT md5(external_id)::uuid, 'HIGH' FROM public.module_ct_cabinet_leads"
    )
    database.run(
        "INSERT INTO canon.identity_links (person_key, source_table, source_pk, snapshot_date, match_rule, "
        "match_score, confidence_level) SELECT md5(external_id)::uuid, 'module_ct_cabinet_leads', external_id, now(), "
        "'any', 95, 'HIGH' FROM public.module_ct_cabinet_leads"
    )
    database.run(
        "INSERT INTO canon.identity_origin (person_key, origin_tag, origin_source_id, origin_confidence, "
        "origin_created_at, resolution_status) SELECT md5(external_id)::uuid, 'cabinet_lead', external_id, 95, now(), "
        "'resolved_auto' FROM public.module_ct_cabinet_leads"
    )
    database.run(
        "INSERT INTO ops.cabinet_lead_recovery_audit (lead_id, first_recovered_at, last_recovered_at, "
        "recovered_person_key) SELECT external_id, now(), now(), md5(external_id)::uuid "
        "FROM public.module_ct_cabinet_leads"
    )
    database.run("VACUUM ANALYZE")


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
