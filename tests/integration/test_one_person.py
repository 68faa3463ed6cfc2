"""One person with very many leads: one of them has the origin, the others are held, and nobody else waits."""

import time
import uuid

from consumer.handlers.outcome import Outcome
from tests.database import Database


def rivals(database: Database, person: uuid.UUID, leads: int) -> None:
    """Leads that the engine matched to one person; the higher its number, the earlier the lead."""
    database.run(
        "INSERT INTO public.module_ct_cabinet_leads (external_id, lead_created_at) "
        "SELECT 'rival-' || n, timestamp '2026-01-20' - n * interval '1 second' FROM generate_series(1, %s) AS n",
        leads,
    )
    database.run(
        "INSERT INTO ops.identity_matching_jobs (source_type, source_id, status, matched_person_key) "
        "SELECT 'cabinet', external_id, 'matched', %s FROM public.module_ct_cabinet_leads",
        person,
    )


def test_of_one_person_s_leads_one_has_the_origin_and_a_sweep_of_the_others_is_soon_over(
    database: Database,
) -> None:
    person, leads = database.person(), 6_000
    rivals(database, person, leads)

    outcomes = database.sweep(leads).outcomes

    assert outcomes == {Outcome.RECOVERED: 1, Outcome.ORIGIN_HELD: leads - 1}
    before, started = database.row_versions(), time.perf_counter()
    assert database.sweep_waiting() == []
    seconds = time.perf_counter() - started
    print(f"a sweep of {leads - 1} held leads: {seconds:.2f} s")
    assert seconds < 10, "look-ups by key: less than one; from end to end for each lead: minutes"
    assert database.row_versions() == before
    origin = database.origin_of(person)
    assert origin and database.audit_of(origin["origin_source_id"])
    database.run("DELETE FROM public.module_ct_cabinet_leads WHERE external_id = %s", origin["origin_source_id"])
    assert len(database.sweep_waiting()) == leads - 1, "the origin is free"
