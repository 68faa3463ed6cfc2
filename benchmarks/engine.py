"""What the triggers cost the matching engine, beside no trigger and beside the one that everybody writes."""

import re
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial

from benchmarks.figure import Figure
from benchmarks.server import Databases
from db.embedded import runnable_binaries
from tests.database import Database

SINGLE_MATCH = """
INSERT INTO ops.identity_matching_jobs (source_type, source_id, status, matched_person_key)
VALUES ('cabinet', gen_random_uuid()::text, 'matched', '00000000-0000-0000-0000-000000000001');
"""
BULK_MATCH = """
INSERT INTO ops.identity_matching_jobs (source_type, source_id, status, matched_person_key)
SELECT 'cabinet', gen_random_uuid()::text, 'matched', '00000000-0000-0000-0000-000000000001'
FROM generate_series(1, %s)
"""
# What the manuals show, and most write: a row trigger that notifies.
PLAIN_TRIGGER = """
CREATE FUNCTION public.plain_notify() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('plain', new.source_id);
    RETURN new;
END
$$;
CREATE TRIGGER plain_notify AFTER INSERT ON ops.identity_matching_jobs
FOR EACH ROW EXECUTE FUNCTION public.plain_notify();
"""
OFF = "ALTER TABLE ops.identity_matching_jobs DISABLE TRIGGER USER"
KINDS = {"none": [OFF], "plain": [OFF, PLAIN_TRIGGER], "ours": []}


def measure(databases: Databases, *, short: bool) -> Iterator[Figure]:
    rounds, seconds = (2, 2) if short else (3, 4)
    for clients in (1, 8) if short else (1, 8, 32):
        tps = _medians(databases, rounds, partial(_single_matches, clients, seconds))
        beside = f"plain trigger {tps['plain']:,.0f}, none {tps['none']:,.0f}"
        yield Figure(
            f"single matches, {clients} clients", tps["ours"], "a second", beside, tps["ours"] / tps["plain"], least=1
        )
    rows = 20_000 if short else 100_000
    took = _medians(databases, rounds, partial(_bulk_seconds, rows))
    beside = f"none {took['none']:.2f} s, plain {took['plain']:.2f} s"
    yield Figure(f"bulk match of {rows:,} rows", took["ours"], "s", beside, took["ours"] / took["none"], most=1.25)


def _medians(databases: Databases, rounds: int, measured: Callable[[Database], float]) -> dict[str, float]:
    """Each kind of trigger in turn, again and again, so that a machine's moods meet all alike."""
    with ExitStack() as stack:
        kinds = {kind: stack.enter_context(databases.fresh()) for kind in KINDS}
        for kind, database in kinds.items():
            _prepare(database, kind)
        found: dict[str, list[float]] = {kind: [] for kind in kinds}
        for _ in range(rounds):
            for kind, database in kinds.items():
                found[kind].append(measured(database))
    return {kind: statistics.median(figures) for kind, figures in found.items()}


def _prepare(database: Database, kind: str) -> None:
    database.run(
        "INSERT INTO canon.identity_registry (person_key, confidence_level) "
        "VALUES ('00000000-0000-0000-0000-000000000001', 'HIGH')"
    )
    for statement in KINDS[kind]:
        database.connection.execute(statement)


def _single_matches(clients: int, seconds: int, database: Database) -> float:
    """Transactions a second, by pgbench."""
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as script:
        script.write(SINGLE_MATCH)
        script.flush()
        command = [str(runnable_binaries() / "pgbench"), "--no-vacuum", "--protocol=prepared", "--jobs=1"]
        command += [f"--client={clients}", f"--time={seconds}", f"--file={script.name}", database.url]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(re.findall(r"tps = ([0-9.]+)", done.stdout)[-1])


def _bulk_seconds(rows: int, database: Database) -> float:
    started = time.perf_counter()
    database.run(BULK_MATCH, rows)
    return time.perf_counter() - started
