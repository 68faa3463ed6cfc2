"""One person with very many leads: one of them has the origin, the others are held, and nobody else waits."""

import statistics
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from consumer.handlers.outcome import Outcome
from tests.acceptance.test_backfill import load
from tests.database import Database
from tests.processes import Daemon, eventually
from tests.traffic import match, unmatched_leads

MANY = 100_000
WORKING_SECONDS = 130.0  # a quarter of a minute where nothing else runs


def rivals(database: Database, person: uuid.UUID, leads: int) -> None:
    """Leads that the engine matched to one person; the higher its number, the earlier the lead."""
    database.run(
        "INSERT INTO public.module_ct_cabinet_leads (external_id, lead_created_at) "
        "SELECT 'rival-' || n, timestamp '2026-01-20' - n * interval '1 second' FROM generate_series(1, %s) AS n",
        leads,
    )
    database.run(
        "INSERT INTO ops.identity_matching_jobs (source_type, source_id, status, matched_person_key) "
        "SELECT 'cabinet', 'rival-' || n, 'matched', %s FROM generate_series(1, %s) AS n",
        person,
        leads,
    )


def seconds_of(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


@pytest.mark.parametrize("leads", [6_000, pytest.param(MANY, marks=pytest.mark.scale)])
def test_of_one_person_s_leads_one_has_the_origin_and_a_sweep_of_the_others_is_soon_over(
    database: Database, leads: int
) -> None:
    """The tables were never analysed: the planner knows nothing of them."""
    person = database.person()
    rivals(database, person, leads)

    outcomes = database.sweep(leads).outcomes

    assert outcomes == {Outcome.RECOVERED: 1, Outcome.ORIGIN_HELD: leads - 1}
    before = database.row_versions()
    waiting: list[str] = []
    of_what_waits = seconds_of(lambda: waiting.extend(database.sweep_waiting()))
    of_all = seconds_of(lambda: outcomes.update(database.sweep(leads).outcomes))
    print(f"{leads - 1} held leads: a sweep of what waits {of_what_waits:.2f} s, of all {of_all:.2f} s")
    assert waiting == []
    assert outcomes.total() == leads, "the second sweep found nothing"
    assert database.row_versions() == before
    assert max(of_what_waits, of_all) < 5 + leads / 4_000, "look-ups by key; through all leads for each: minutes"
    origin = database.origin_of(person)
    assert origin and database.audit_of(origin["origin_source_id"])
    database.run("DELETE FROM public.module_ct_cabinet_leads WHERE external_id = %s", origin["origin_source_id"])
    assert len(database.sweep_waiting()) == leads - 1, "the origin is free"


def test_a_sweep_of_many_persons_with_two_leads_each_is_soon_over(database: Database) -> None:
    """The tables were analysed while they were empty."""
    leads = 20_000
    database.run("ANALYZE")
    loading = seconds_of(lambda: load(database, leads, analyse=False))
    database.run("UPDATE ops.identity_matching_jobs SET matched_person_key = md5((id - id %% 2)::text)::uuid "
                 "WHERE id - id %% 2 IN (SELECT id FROM public.module_ct_cabinet_leads)")  # fmt: skip
    held = database.sweep(leads).outcomes[Outcome.ORIGIN_HELD]

    seconds = seconds_of(lambda: database.sweep(leads))

    print(f"a sweep of {leads} leads of which {held} are held: {seconds:.2f} s; to load them took {loading:.2f} s")
    assert held > leads // 2 - 2
    assert seconds < 5 * loading, "about as long, whatever else the machine does; through all leads for each: minutes"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_nobody_else_waits_while_a_daemon_works_and_sweeps_the_leads_of_one_person(database: Database) -> None:
    person, others = database.person(), iter(unmatched_leads(database, "other", 1_000))
    with (
        closing(Database(database.owner_url)) as engine,
        Daemon(database.url, sweep_interval_seconds="1") as daemon,
    ):
        daemon.wait_for("service.ready")
        bulk = threading.Thread(target=rivals, args=(engine, person, MANY))
        bulk.start()
        worked = [*waits(database, others, until=lambda: held(database) == MANY - 1)]
        bulk.join()
        before = look_ups(database)
        swept = [*waits(database, others, until=lambda: look_ups(database) > before + MANY, at_least=20)]
        assert daemon.stop() == 0

    for what, seconds in (("worked", worked), ("swept", swept)):
        print(
            f"another person's match while {MANY} leads of one are {what}: {len(seconds)} matches, "
            f"p50 {1e3 * statistics.median(seconds):.1f} ms, longest {1e3 * max(seconds):.0f} ms"
        )
    assert max(worked + swept) < 1
    assert database.events() == []


def waits(
    database: Database, others: Iterator[str], *, until: Callable[[], bool], at_least: int = 1
) -> Iterator[float]:
    """Match two leads a second, each of a person of its own; the seconds from each commit to its audit row."""
    give_up, count = time.monotonic() + WORKING_SECONDS, 0
    while count < at_least or not until():
        assert time.monotonic() < give_up, f"not done within {WORKING_SECONDS:.0f} s, {count} matches beside it"
        lead = next(others)
        match(database, [lead])
        committed = time.perf_counter()
        eventually(lambda lead=lead: database.audit_of(lead))
        yield time.perf_counter() - committed
        count += 1
        time.sleep(max(0, committed + 0.5 - time.perf_counter()))  # the rate


def held(database: Database) -> int:
    return int(database.value("SELECT count(*) FROM ops.cabinet_recovery_exception WHERE outcome = 'origin_held'"))


def look_ups(database: Database) -> int:
    """How often a lead was looked up by its id: of each that is held the one that holds its origin, in each sweep."""
    return int(
        database.value("SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = 'ix_cabinet_recovery_lead_id'")
    )
