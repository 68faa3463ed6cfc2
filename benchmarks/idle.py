"""What it costs when nothing happens."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.figure import Figure
from benchmarks.server import Databases
from tests.database import Database
from tests.processes import Daemon


def measure(databases: Databases, *, short: bool) -> Iterator[Figure]:
    with databases.fresh() as database:
        yield from _idle_daemon(database, seconds=15 if short else 30)


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
