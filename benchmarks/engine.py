"""What the triggers cost the matching engine, beside no trigger and beside the one that everybody writes."""

import re
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import psycopg

from benchmarks.figure import Figure
from benchmarks.server import Databases
from db.embedded import runnable_binaries
from tests.database import Database

SINGLE_MATCH = """
INSERT INTO ops.identity_matching_jobs (source_type, source_id, status, matched_person_key)
VALUES ('cabinet', gen_random_uuid()::text, 'matched', '00000000-0000-0000-0000-000000000001');
"""
PERSONS = ("00000000-0000-0000-0000-000000000001", "00000000-0000-0000-0000-000000000002")
INSERT_LINKS = """
INSERT INTO canon.identity_links (person_key, source_table, source_pk, snapshot_date, match_rule, match_score,
    confidence_level)
SELECT %(person)s, 'module_ct_cabinet_leads', 'lead-' || number, now(), 'phone_exact', 90, 'HIGH'
FROM generate_series(%(first)s::integer, %(last)s::integer) AS number
"""
UPDATE_LINKS = """
UPDATE canon.identity_links SET person_key = %(person)s, linked_at = now()
WHERE id BETWEEN %(first)s::integer AND %(last)s::integer
"""
INSERT_JOBS = """
INSERT INTO ops.identity_matching_jobs (source_type, source_id, status, matched_person_key)
SELECT 'cabinet', 'lead-' || number, 'matched', %(person)s
FROM generate_series(%(first)s::integer, %(last)s::integer) AS number
"""
UPDATE_JOBS = """
UPDATE ops.identity_matching_jobs
SET status = 'matched', matched_person_key = %(person)s, attempt_count = attempt_count + 1, updated_at = now()
WHERE id BETWEEN %(first)s::integer AND %(last)s::integer
"""
BULK = {
    "jobs inserted": (INSERT_JOBS, None),
    "jobs updated": (UPDATE_JOBS, INSERT_JOBS),
    "links inserted": (INSERT_LINKS, None),
    "links updated": (UPDATE_LINKS, INSERT_LINKS),
}
# What the manuals show, and most write: a row trigger that notifies.
PLAIN_TRIGGER = """
CREATE FUNCTION public.plain_notify() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('plain', new.source_id);
    RETURN new;
END
$$;
CREATE TRIGGER plain_notify AFTER INSERT OR UPDATE ON ops.identity_matching_jobs
FOR EACH ROW EXECUTE FUNCTION public.plain_notify();
"""
OFF = "ALTER TABLE ops.identity_matching_jobs DISABLE TRIGGER USER"
# As a keeper leaves the settings that has been awake for long.
AWAKE = "UPDATE ops.cabinet_recovery_settings SET notify_mode = 'adaptive', awake_until = now() + interval '1 day'"
KINDS = {"none": [OFF], "plain": [OFF, PLAIN_TRIGGER], "ours": [], "awake": [AWAKE]}


def measure(databases: Databases, *, short: bool) -> Iterator[Figure]:
    rounds, seconds = (4, 1) if short else (5, 1)  # short and many: the moods of a machine last for seconds
    for clients in (1, 8) if short else (1, 8, 32):
        tps = _medians(databases, rounds, partial(_single_matches, clients, seconds))
        beside = f"plain trigger {tps['plain']:,.0f}, none {tps['none']:,.0f}"
        yield Figure(
            f"single matches, {clients} clients", tps["ours"], "a second", beside, tps["ours"] / tps["plain"], least=1
        )
        ratio = tps["awake"] / tps["ours"]
        least = 1.4 if clients > 1 else None  # what NOTIFY costs is that writers wait for each other
        yield Figure(
            f"adaptive, consumer awake, {clients} clients", tps["awake"], "a second", "mode on", ratio, least=least
        )
    rows = 20_000 if short else 100_000
    for name, (statement, filling) in BULK.items():
        with databases.fresh() as database:
            bare, full = _bulk_seconds(database, statement, filling, rows)
        yield Figure(f"{rows:,} {name} at once", full, "s", f"no trigger {bare:.2f} s", full / bare, most=1.25)


def _medians(databases: Databases, rounds: int, measured: Callable[[Database], float]) -> dict[str, float]:
    """Each kind of trigger in turn, again and again, so that a machine's moods meet all alike."""
    with ExitStack() as stack:
        kinds = {kind: stack.enter_context(databases.fresh()) for kind in KINDS}
        for kind, database in kinds.items():
            prepare(database, kind)
        found: dict[str, list[float]] = {kind: [] for kind in kinds}
        for _ in range(rounds):
            for kind, database in kinds.items():
                found[kind].append(measured(database))
    return {kind: statistics.median(figures) for kind, figures in found.items()}


def prepare(database: Database, kind: str) -> None:
    _add_persons(database)
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


def _add_persons(database: Database) -> None:
    for person in PERSONS:
        database.run("INSERT INTO canon.identity_registry (person_key, confidence_level) VALUES (%s, 'HIGH')", person)


def _bulk_seconds(database: Database, statement: str, filling: str | None, rows: int) -> tuple[float, float]:
    """Median seconds without our triggers and with them, in one session.

    It has run the statement over two rows before: plpgsql keeps the plan that it made for those.
    """
    old, new = PERSONS
    _add_persons(database)
    if filling:
        database.connection.execute(filling, {"person": old, "first": 1, "last": rows})
        database.run("VACUUM ANALYZE")
    with psycopg.connect(database.url) as engine:
        engine.execute(statement, {"person": new, "first": 1, "last": 2})
        engine.commit()
        seconds: dict[str, list[float]] = {"DISABLE": [], "ENABLE": []}
        for word in ("DISABLE", "ENABLE", "ENABLE", "DISABLE", "DISABLE", "ENABLE"):
            seconds[word].append(_undone(engine, word, statement, {"person": new, "first": 3, "last": rows}))
    bare, full = map(statistics.median, seconds.values())
    return bare, full


def _undone(engine: psycopg.Connection, word: str, statement: str, parameters: dict[str, Any]) -> float:
    """Run the statement with the triggers switched so, measure it, and undo both."""
    for table in ("canon.identity_links", "ops.identity_matching_jobs"):
        engine.execute(f"ALTER TABLE {table} {word} TRIGGER USER")
    started = time.perf_counter()
    engine.execute(statement, parameters)
    seconds = time.perf_counter() - started
    engine.rollback()
    return seconds
