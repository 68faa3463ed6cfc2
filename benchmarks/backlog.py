"""How fast a backlog drains, beside the same writes by the fewest statements that PostgreSQL needs."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator

import psycopg

from benchmarks import looks
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
    with databases.fresh() as backlog:
        load(backlog, leads)
        ceiling = _plain_rate(databases, backlog, leads)
        with databases.copy(backlog) as database:
            one = Drain(database)
            yield _beside_plain(f"backlog of {leads:,}, one consumer", one.rate, ceiling)
            if not short:
                yield from looks.measure(database, leads)
        by_state = _drained(databases, backlog, has_events=False)
        yield _beside_plain("the same, by state alone", by_state.rate, ceiling)
        if short:
            return
        pair = _drained(databases, backlog, consumers=2)
        yield _beside_one("the same, two consumers", pair, one, least=1.3)
        pinned = _drained(databases, backlog, with_old_snapshot=True)
        yield _beside_one("the same, an old snapshot open", pinned, one, least=0.85)
    yield from _a_tenth(databases, leads // 10)
    yield from _ten_times(databases, 10 * leads, one, ceiling)


def _a_tenth(databases: Databases, leads: int) -> Iterator[Figure]:
    with databases.fresh() as database:
        load(database, leads)
        yield Figure(f"backlog of {leads:,}", Drain(database).rate, "leads/s")
        yield from looks.measure(database, leads)


def _ten_times(databases: Databases, leads: int, one: Drain, ceiling_of_one: float) -> Iterator[Figure]:
    with databases.fresh() as backlog:
        load(backlog, leads)
        ceiling = _plain_rate(databases, backlog, leads)
        with databases.copy(backlog) as database:
            many = Drain(database)
            yield _beside_plain(f"backlog of {leads:,}", many.rate, ceiling)
            yield _beside_one(f"backlog of {leads:,}, of {one.leads:,}", many, one, least=0.85)
            beside = f"plain statements {ceiling:,.0f}/s of {ceiling_of_one:,.0f}/s"
            yield Figure("the same by plain statements", ceiling, "leads/s", beside, ceiling / ceiling_of_one)
            grown = many.memory_mb - one.memory_mb
            yield Figure(
                "memory, ten times the backlog", many.memory_mb, "MB", f"{one.memory_mb:.0f} MB", grown, most=50
            )
            yield from looks.measure(database, leads)


def _beside_plain(name: str, rate: float, ceiling: float) -> Figure:
    return Figure(name, rate, "leads/s", f"plain statements {ceiling:,.0f}/s", rate / ceiling, least=0.45)


def _beside_one(name: str, drain: Drain, one: Drain, least: float) -> Figure:
    return Figure(name, drain.rate, "leads/s", f"one {one.rate:,.0f}/s", drain.rate / one.rate, least)


def _plain_rate(databases: Databases, backlog: Database, leads: int) -> float:
    with databases.copy(backlog) as database:
        database.run("ALTER TABLE canon.identity_links DISABLE TRIGGER USER")  # the ceiling pays for none of ours
        started = time.perf_counter()
        database.connection.execute(PLAIN)
        return leads / (time.perf_counter() - started)


def _drained(
    databases: Databases,
    backlog: Database,
    consumers: int = 1,
    *,
    has_events: bool = True,
    with_old_snapshot: bool = False,
) -> Drain:
    with databases.copy(backlog) as database, psycopg.connect(database.url) as elsewhere:
        if not has_events:
            database.run("TRUNCATE ops.cabinet_recovery_outbox")
        if with_old_snapshot:
            elsewhere.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            elsewhere.execute("SELECT count(*) FROM canon.identity_links")
        return Drain(database, consumers)
