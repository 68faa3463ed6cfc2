"""How fast a backlog drains, beside the same writes by the fewest statements that PostgreSQL needs."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator

import psycopg

from benchmarks.figure import Figure
from benchmarks.server import Databases
from tests.acceptance.test_backfill import PLAIN, load
from tests.database import Database


class Drain:
    """`consumer sweep` processes, from their start to the last one's end."""

    def __init__(self, database: Database, consumers: int = 1) -> None:
        command = [sys.executable, "-m", "consumer", "sweep", "--limit", "10000000", "--json"]
        environment = {**os.environ, "DATABASE_URL": database.url}
        started = time.perf_counter()
        running = [subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) for _ in range(consumers)]
        answers = [json.loads(process.stdout.read()) for process in running if process.stdout]
        self.memory_mb = max(_reap(process) for process in running)
        self.seconds = time.perf_counter() - started
        self.leads = sum(answer["links_created"] for answer in answers)
        self.rate = self.leads / self.seconds


def _reap(process: subprocess.Popen[bytes]) -> float:
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_maxrss / 1024


def measure(databases: Databases, *, short: bool) -> Iterator[Figure]:
    leads = 20_000 if short else 100_000
    ceiling = _plain_rate(databases, leads)
    one = _drained(databases, leads)
    beside = f"plain statements {ceiling:,.0f}/s"
    yield Figure(f"backlog of {leads:,}, one consumer", one.rate, "leads/s", beside, one.rate / ceiling, least=0.45)
    by_state = _drained(databases, leads, has_events=False)
    yield Figure("the same, by state alone", by_state.rate, "leads/s", beside, by_state.rate / ceiling, least=0.45)
    if short:
        return
    pair = _drained(databases, leads, consumers=2, has_events=False)
    beside = f"one {by_state.rate:,.0f}/s"
    yield Figure("by state, two consumers", pair.rate, "leads/s", beside, pair.rate / by_state.rate, 1.3)
    two = _drained(databases, leads, consumers=2)
    yield Figure("the same, two consumers", two.rate, "leads/s", f"one {one.rate:,.0f}/s", two.rate / one.rate, 1.3)
    pinned = _drained(databases, leads, with_old_snapshot=True)
    yield Figure(
        "the same, an old snapshot open", pinned.rate, "leads/s", f"without {one.rate:,.0f}/s", pinned.rate / one.rate,
        least=0.85,
    )  # fmt: skip
    many = _drained(databases, 10 * leads)
    yield Figure(
        f"backlog of {10 * leads:,}", many.rate, "leads/s", f"{leads:,}: {one.rate:,.0f}/s", many.rate / one.rate,
        least=0.85,
    )  # fmt: skip
    grown = many.memory_mb - one.memory_mb
    yield Figure("memory, ten times the backlog", many.memory_mb, "MB", f"{one.memory_mb:.0f} MB", grown, most=50)


def _plain_rate(databases: Databases, leads: int) -> float:
    with databases.fresh() as database:
        load(database, leads)
        database.run("ALTER TABLE canon.identity_links DISABLE TRIGGER USER")  # the ceiling pays for none of ours
        started = time.perf_counter()
        database.connection.execute(PLAIN)
        return leads / (time.perf_counter() - started)


def _drained(
    databases: Databases, leads: int, consumers: int = 1, *, has_events: bool = True, with_old_snapshot: bool = False
) -> Drain:
    with databases.fresh() as database, psycopg.connect(database.url) as elsewhere:
        load(database, leads)
        if not has_events:
            database.run("TRUNCATE ops.cabinet_recovery_outbox")
        if with_old_snapshot:
            elsewhere.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            elsewhere.execute("SELECT count(*) FROM canon.identity_links")
        return Drain(database, consumers)
