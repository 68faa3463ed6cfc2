"""A backfill of 100,000 leads, beside the same effects by the fewest statements that PostgreSQL needs."""

import asyncio
import json
import os
import subprocess
import sys
import time

import pytest

from consumer.connection import open_handler
from consumer.due import Agenda, DueLead, DueList
from consumer.sweeper import list_due
from db import listing
from tests.database import Database

LEADS = 40_000

PLAIN = """
BEGIN;
INSERT INTO canon.identity_links (
    person_key, source_table, source_pk, snapshot_date, match_rule, match_score, confidence_level, evidence
)
SELECT matched_person_key, 'module_ct_cabinet_leads', source_id, now(), 'cabinet_recovery', 95, 'HIGH',
    jsonb_build_object('job_id', id)
FROM ops.identity_matching_jobs;
INSERT INTO canon.identity_origin (
    person_key, origin_tag, origin_source_id, origin_confidence, origin_created_at, evidence, resolution_status
)
SELECT matched_person_key, 'cabinet_lead', source_id, 95, lead_created_at,
    jsonb_build_object('recovered_by', 'cabinet_recovery'), 'resolved_auto'
FROM ops.identity_matching_jobs
INNER JOIN public.module_ct_cabinet_leads ON source_id = COALESCE(external_id, module_ct_cabinet_leads.id::text);
INSERT INTO ops.cabinet_lead_recovery_audit (
    lead_id, first_recovered_at, last_recovered_at, recovered_person_key, recovery_method
)
SELECT source_id, now(), now(), matched_person_key, 'matching_job' FROM ops.identity_matching_jobs;
COMMIT;
"""


def load(database: Database, leads: int, *, analyse: bool = True) -> None:
    """A fleet in which every lead was matched by a job, each to a person of its own."""
    database.run(
        "INSERT INTO public.module_ct_cabinet_leads (external_id, lead_created_at) "
        "SELECT CASE WHEN n %% 3 > 0 THEN 'ext-' || n END, now() - n %% 45 * interval '1 day' "
        "FROM generate_series(1, %s) AS n",
        leads,
    )
    database.run(
        "INSERT INTO canon.identity_registry (person_key, confidence_level) "
        "SELECT md5(id::text)::uuid, 'HIGH' FROM public.module_ct_cabinet_leads"
    )
    database.run(
        "INSERT INTO ops.identity_matching_jobs (source_type, source_id, status, matched_person_key) "
        "SELECT 'cabinet', COALESCE(external_id, id::text), 'matched', md5(id::text)::uuid "
        "FROM public.module_ct_cabinet_leads"
    )
    if analyse:
        database.run("VACUUM ANALYZE")


def sweep(url: str, limit: int) -> tuple[dict[str, int], float, float]:
    """Run the real command; its answer, its seconds, and the most memory that it held, in MB."""
    command = [sys.executable, "-m", "consumer", "sweep", "--limit", str(limit), "--json"]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "DATABASE_URL": url})
    assert process.stdout
    answer = process.stdout.read()
    process.stdout.close()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return json.loads(answer), time.perf_counter() - started, usage.ru_maxrss / 1024


def test_a_list_of_any_length_comes_in_its_order(database: Database) -> None:
    load(database, 1_201)
    database.run("DELETE FROM ops.cabinet_recovery_outbox WHERE right(lead_id, 1) = '7'")
    expected = [
        (row["lead_id"], row["lead_id"][-1] != "7")
        for row in database.run(
            "SELECT lead_id FROM ops.v_cabinet_recovery_identity ORDER BY "
            "CASE WHEN window_ends_at >= now() THEN window_ends_at END NULLS LAST, window_ends_at DESC, lead_id"
        )
    ]

    async def listed() -> DueList:
        handler = await open_handler(database.settings(), "test")
        async with handler.connection:
            return await list_due(handler, listing.LIST_ALL, limit=1_200)

    leads = asyncio.run(listed())

    assert [(lead.lead_id, lead.has_event) for lead in leads] == expected[:1_200]
    assert leads[498:1_003] == list(leads)[498:1_003]
    assert leads[999] == list(leads)[999]
    assert leads[1_190:2_000] == list(leads)[1_190:]


def test_an_agenda_comes_to_every_lead_once_wherever_it_jumps() -> None:
    leads = [DueLead(str(n), has_event=True) for n in range(1_000)]
    agenda, seen = Agenda(leads, 30), list[DueLead]()

    while part := agenda.take():
        seen.extend(part)
        if len(seen) % 70 < 30:
            agenda.jump()

    assert seen != leads
    assert sorted(seen, key=lambda lead: int(lead.lead_id)) == leads


@pytest.mark.slow
@pytest.mark.parametrize("has_events", [True, False], ids=["with events", "by state alone"])
def test_a_backfill_is_whole_and_takes_no_more_memory_for_more_leads(database: Database, *, has_events: bool) -> None:
    load(database, LEADS)
    if not has_events:
        database.run("TRUNCATE ops.cabinet_recovery_outbox")

    _, _, small_mb = sweep(database.url, 5_000)
    answer, _, large_mb = sweep(database.url, LEADS)

    assert answer["processed"] == answer["links_created"] == answer["origins_created"] == LEADS - 5_000
    assert database.value("SELECT count(*) FROM ops.cabinet_lead_recovery_audit") == LEADS
    assert large_mb < small_mb + 50
    before = database.row_versions()
    assert sweep(database.url, LEADS)[0]["processed"] == 0
    assert database.row_versions() == before
