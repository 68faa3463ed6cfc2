"""How soon the program is there, and what it weighs."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.figure import Figure
from benchmarks.server import Databases
from tests.processes import ELSEWHERE, Daemon


def measure(databases: Databases, *, short: bool) -> Iterator[Figure]:
    rounds = 3 if short else 7
    help_seconds = min(_help_seconds() for _ in range(rounds))
    yield Figure("consumer --help", help_seconds, "s", held=help_seconds, most=0.3)
    with databases.fresh() as database:
        ready_seconds, memory_mb = zip(*(_run_until_ready(database.url) for _ in range(rounds)), strict=True)
    yield Figure("consumer run until ready", min(ready_seconds), "s", held=min(ready_seconds), most=1.5)
    yield Figure("memory of the idle daemon", max(memory_mb), "MB", held=max(memory_mb), most=75)


def _help_seconds() -> float:
    started = time.perf_counter()
    script = Path(sys.executable).with_name("consumer")
    subprocess.run([script, "--help"], check=True, stdout=subprocess.DEVNULL, cwd=ELSEWHERE)
    return time.perf_counter() - started


def _run_until_ready(url: str) -> tuple[float, float]:
    started = time.perf_counter()
    with Daemon(url) as daemon:
        daemon.wait_for("service.ready")
        seconds = time.perf_counter() - started
        daemon.wait_for("listener.proved")
        status = Path(f"/proc/{daemon.process.pid}/status").read_text(encoding="utf-8")
        memory_kb = next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))
        daemon.stop()
    return seconds, int(memory_kb) / 1024
