"""What the hourly job's runbook promised its operators, one test for each promise.

The job was `python -m jobs.cabinet_recovery_impact_job [limit]`; `consumer sweep [--limit N]` stands in its place.
"""

import json
import re
import subprocess
import sys
import uuid
from contextlib import closing
from datetime import UTC, datetime, timedelta
from inspect import signature
from pathlib import Path
from shlex import quote

import pytest

from consumer import run_job
from tests.database import TABLES, Database
from tests.processes import ELSEWHERE, run_command, run_python
from tests.servers import TemplateDatabase

HOST_TABLES = TABLES[:6]
WRITTEN = {"canon.identity_links", "canon.identity_origin", "canon.identity_origin_history"}
COUNTS = (
    *("processed", "links_created", "links_updated", "origins_created", "origins_updated"),
    *("audit_created", "audit_updated", "skipped"),
)

# Both as the runbook has them.
RECENT_AUDIT = """
-- Ver registros recientes en audit
SELECT 
    lead_id,
    first_recovered_at,
    last_recovered_at,
    recovered_person_key,
    recovery_method
FROM ops.cabinet_lead_recovery_audit
ORDER BY first_recovered_at DESC
LIMIT 10;
"""  # noqa: W291
IMPACT = """
-- Ver leads recuperados
SELECT 
    impact_bucket,
    COUNT(*) as count
FROM ops.v_cabinet_identity_recovery_impact_14d
GROUP BY impact_bucket
ORDER BY count DESC;
"""  # noqa: W291


def matched_leads(database: Database, size: int) -> None:
    """Add that many leads, each with a person and a matched job."""
    database.run(
        "INSERT INTO canon.identity_registry (person_key, confidence_level) "
        "SELECT md5(n::text)::uuid, 'HIGH' FROM generate_series(1, %s) AS n",
        size,
    )
    database.run(
        "INSERT INTO public.module_ct_cabinet_leads (external_id, lead_created_at) "
        "SELECT 'lead-' || n, now() FROM generate_series(1, %s) AS n",
        size,
    )
    database.run(
        "INSERT INTO ops.identity_matching_jobs (source_type, source_id, status, matched_person_key) "
        "SELECT 'cabinet', 'lead-' || n, 'matched', md5(n::text)::uuid FROM generate_series(1, %s) AS n",
        size,
    )


class TestPurpose:
    """«Asegurar que cuando el matching engine encuentre person_key para un lead cabinet …»."""

    def test_a_match_of_the_engine_creates_the_canonical_link(self, database: Database) -> None:
        person = database.person()
        lead = database.lead(matched_to=person)

        database.sweep()

        link = database.link_of(lead)
        assert link and (link["person_key"], link["match_rule"]) == (person, "cabinet_recovery")

    def test_a_new_match_of_the_engine_updates_the_canonical_link(self, database: Database) -> None:
        lead = database.lead(matched_to=database.person())
        database.sweep()
        found_later = database.person()
        database.job(lead, found_later)

        database.sweep()

        link = database.link_of(lead)
        assert link and link["person_key"] == found_later

    def test_it_is_recorded_so_that_the_impact_can_be_measured(self, database: Database) -> None:
        lead = database.lead(matched_to=database.person(), created_at=datetime.now() - timedelta(days=3))
        late = database.lead(matched_to=database.person(), created_at=datetime.now() - timedelta(days=30))
        assert database.impact_of(lead)["impact_bucket"] == "identified_but_missing_origin"

        database.sweep()

        assert database.impact_of(lead)["impact_bucket"] == "recovered_within_14d_but_no_claim"
        assert database.impact_of(late)["impact_bucket"] == "recovered_late"


class TestFunction:
    """«El job procesa leads "unidentified" o "identified_no_origin" …»."""

    def test_leads_unidentified_or_without_origin_are_processed_and_no_others(self, database: Database) -> None:
        done, linked = database.lead("done"), database.lead("linked")
        person = database.person()
        database.link(done, person)
        database.origin(person, source=done)
        database.link(linked, database.person())
        matched = database.lead("matched", matched_to=database.person())

        database.sweep()

        audited = {row["lead_id"] for row in database.run("SELECT lead_id FROM ops.cabinet_lead_recovery_audit")}
        assert audited == {linked, matched}

    def test_the_origin_is_created_as_cabinet_lead_of_this_lead(self, database: Database) -> None:
        person = database.person()
        lead = database.lead(matched_to=person)

        database.sweep()

        origin = database.origin_of(person)
        assert origin and (origin["origin_tag"], origin["origin_source_id"]) == ("cabinet_lead", lead)

    def test_the_origin_is_updated_to_cabinet_lead_of_this_lead(self, database: Database) -> None:
        person = database.person()
        database.origin(person, tag="scout_registration", source="scout-1")
        lead = database.lead(matched_to=person)

        database.sweep()

        origin = database.origin_of(person)
        assert origin and (origin["origin_tag"], origin["origin_source_id"]) == ("cabinet_lead", lead)

    def test_the_audit_has_when_it_was_first_and_last_recovered(self, database: Database) -> None:
        before = datetime.now(UTC)
        lead = database.lead(matched_to=database.person())
        database.sweep()
        first = database.audit_of(lead)
        database.job(lead, database.person())

        database.sweep()

        last = database.audit_of(lead)
        assert first and last
        assert before < first["first_recovered_at"] == first["last_recovered_at"]
        assert last["first_recovered_at"] == first["first_recovered_at"] < last["last_recovered_at"]

    def test_only_leads_that_have_a_person_are_processed(self, database: Database) -> None:
        for status in ("pending", "failed"):
            database.job(database.lead(), None, status=status)
        database.lead()

        result = database.sweep().as_job_result()

        assert result["processed"] == 0
        assert database.run("SELECT 1 AS any_link FROM canon.identity_links") == []
        assert database.run("SELECT 1 AS any_origin FROM canon.identity_origin") == []

    def test_it_can_be_run_any_number_of_times(self, database: Database) -> None:
        for _ in range(5):
            database.lead(matched_to=database.person())
        database.sweep()
        before = database.row_versions()

        results = [database.sweep().as_job_result() for _ in range(3)]

        assert {result["processed"] for result in results} == {0}
        assert database.row_versions() == before

    def test_it_only_creates_and_updates_and_never_deletes(self, database: Database) -> None:
        person = database.person()
        database.origin(person, tag="migration")
        for lead in (database.lead(), database.lead(), database.lead("moved")):
            database.job(lead, person)
        database.link("moved", database.person())
        database.link("of-no-lead", database.person())
        keys = {
            "public.module_ct_cabinet_leads": "id",
            "canon.identity_registry": "person_key",
            "canon.identity_links": "id",
            "canon.identity_origin": "person_key",
            "canon.identity_origin_history": "id",
            "ops.identity_matching_jobs": "id",
        }

        def rows() -> set[tuple[str, str]]:
            return {
                (table, str(next(iter(row.values()))))
                for table, key in keys.items()
                for row in database.connection.execute(f"SELECT {key} FROM {table}")
            }

        before = rows()
        database.sweep()
        database.reprocess("moved")

        assert before <= rows()


class TestExecution:
    """«Ejecución manual», «Programación (cron)» and «Parámetros»."""

    def test_it_is_run_by_hand_as_a_python_module(self, database: Database) -> None:
        lead = database.lead(matched_to=database.person())

        done = run_command("sweep", url=database.url)

        assert done.returncode == 0
        assert database.audit_of(lead)

    def test_it_takes_a_limit_by_hand(self, database: Database) -> None:
        matched_leads(database, 7)

        done = run_command("sweep", "--limit", "3", "--json", url=database.url)

        assert json.loads(done.stdout)["processed"] == 3
        assert database.value("SELECT count(*) FROM ops.cabinet_lead_recovery_audit") == 3

    def test_it_is_run_from_python_with_a_limit_and_returns_a_dictionary(self, database: Database) -> None:
        matched_leads(database, 7)

        done = run_python(
            "-c", "from consumer import run_job\n\nresult = run_job(limit=5)\nprint(result)", url=database.url
        )

        result = eval(done.stdout)
        assert type(result) is dict
        assert result["processed"] == 5

    def test_it_is_run_by_cron_and_leaves_its_result_in_a_log_file(self, database: Database, tmp_path: Path) -> None:
        """A crontab's line: the shell, no terminal, next to nothing in the environment, output appended to a file."""
        database.lead(matched_to=database.person())
        log = tmp_path / "cabinet_recovery.log"
        log.write_text("earlier runs\n")
        line = f"cd {quote(ELSEWHERE)} && {quote(sys.executable)} -m consumer sweep >> {log} 2>&1"

        done = subprocess.run(
            ["/bin/sh", "-c", line],
            check=False,
            stdin=subprocess.DEVNULL,
            env={"HOME": "/", "PATH": "/usr/bin:/bin", "DATABASE_URL": database.url},
        )

        text = log.read_text()
        assert done.returncode == 0
        assert text.startswith("earlier runs\n")
        assert re.search(r"^processed +1$", text, re.MULTILINE)
        assert text.isascii(), "no bar and no colour"

    def test_cron_learns_from_the_exit_status_that_something_is_wrong(self, database: Database) -> None:
        database.run("ALTER TABLE canon.identity_origin ADD CHECK (origin_source_id <> 'bad')")
        database.lead("bad", matched_to=database.person())

        assert run_command("sweep", url=database.url).returncode == 5
        assert run_command("sweep", url=f"{database.url} dbname=nowhere").returncode == 4

    @pytest.mark.slow
    def test_without_a_limit_up_to_10000_leads_are_processed(self, database: Database) -> None:
        matched_leads(database, 10_001)

        done = run_command("sweep", "--json", url=database.url)

        assert json.loads(done.stdout)["processed"] == 10_000
        assert database.value("SELECT count(*) FROM ops.cabinet_lead_recovery_audit") == 10_000
        assert signature(run_job).parameters["limit"].default == 10_000


class TestStatistics:
    """«El job retorna un diccionario con …»."""

    def test_the_dictionary_has_eight_counts_and_a_list_of_errors(self, database: Database) -> None:
        result = database.sweep().as_job_result()

        assert {key: type(value) for key, value in result.items()} == {**dict.fromkeys(COUNTS, int), "errors": list}

    def test_each_count_is_of_what_was_done(self, database: Database) -> None:
        database.run("ALTER TABLE canon.identity_origin ADD CHECK (origin_source_id <> 'bad')")
        moved = database.lead("moved", matched_to=database.person())
        database.sweep()
        scouted = database.person()
        database.origin(scouted, tag="scout_registration", source="scout-1")
        by_hand = database.person()
        database.origin(by_hand, tag="migration", decided_by="manual")
        database.job(moved, database.person())
        database.lead("new", matched_to=database.person())
        database.link(database.lead("linked"), database.person())
        database.lead("scouted", matched_to=scouted)
        database.lead("by-hand", matched_to=by_hand)
        database.lead("bad", matched_to=database.person())

        result = database.sweep().as_job_result()

        (error,) = result.pop("errors")  # type: ignore[misc]
        assert error.startswith("bad: failed: 23514")
        assert result == {
            "processed": 4,  # moved, new, linked, scouted
            "links_created": 3,  # new, scouted, by-hand
            "links_updated": 1,  # moved
            "origins_created": 3,  # moved, new, linked
            "origins_updated": 1,  # scouted
            "audit_created": 3,  # new, linked, scouted
            "audit_updated": 1,  # moved
            "skipped": 1,  # by-hand
        }

    def test_a_lead_without_a_person_counts_as_skipped(self, database: Database) -> None:
        """Where an event asked for it: leads that nobody has matched yet are not even looked at."""
        lead = database.lead(matched_to=database.person())
        database.job(lead, None, status="failed")
        database.lead()

        result = database.sweep().as_job_result()

        assert (result["processed"], result["skipped"], result["errors"]) == (0, 1, [])


class TestVerification:
    def test_the_query_for_recent_audit_rows_shows_the_last_ten(self, database: Database) -> None:
        people = [database.person() for _ in range(12)]
        for person in people:
            database.lead(matched_to=person)
            database.sweep()

        rows = database.connection.execute(RECENT_AUDIT).fetchall()

        assert [row["recovered_person_key"] for row in rows] == people[:1:-1]
        assert {row["recovery_method"] for row in rows} == {"matching_job"}
        assert list(rows[0]) == [
            *("lead_id", "first_recovered_at", "last_recovered_at", "recovered_person_key", "recovery_method")
        ]

    def test_the_query_for_impact_counts_the_leads_by_bucket(self, database: Database) -> None:
        for days_ago in (1, 2, 40):
            database.lead(matched_to=database.person(), created_at=datetime.now() - timedelta(days=days_ago))
        for _ in range(4):
            database.lead()
        database.sweep()

        rows = database.connection.execute(IMPACT).fetchall()

        assert [(row["impact_bucket"], row["count"]) for row in rows] == [
            ("still_unidentified", 4),
            ("recovered_within_14d_but_no_claim", 2),
            ("recovered_late", 1),
        ]


class TestTroubleshooting:
    def test_a_missing_audit_table_or_view_is_mended_by_migrating(self, server_url: str) -> None:
        with TemplateDatabase(server_url, prepare=lambda _: None) as empty:
            url = empty.fresh()
            before = run_command("sweep", url=url)
            mended = run_command("migrate", url=url)
            with closing(Database(url)) as database:
                assert database.sweep().as_job_result()["errors"] == []
            empty.drop(url)

        assert (before.returncode, mended.returncode) == (3, 0)
        assert "run `consumer migrate`" in before.stderr

    def test_why_nothing_is_processed_can_be_read_from_the_impact_view(self, database: Database) -> None:
        lead = database.lead("due", matched_to=database.person())
        database.lead("unmatched")
        candidates = (
            "SELECT lead_id FROM ops.v_cabinet_identity_recovery_impact_14d "
            "WHERE claim_status_bucket IN ('unidentified', 'identified_no_origin')"
        )
        with_person = candidates + " AND person_key_effective IS NOT NULL"
        assert len(database.connection.execute(candidates).fetchall()) == 2
        assert database.connection.execute(with_person).fetchall() == [{"lead_id": lead}]

        database.sweep()

        assert database.connection.execute(candidates).fetchall() == [{"lead_id": "unmatched"}]
        assert database.connection.execute(with_person).fetchall() == []


def test_what_went_wrong_stands_in_the_log(database: Database) -> None:
    """«El job registra logs», on stderr: cron's file has it, beside the counts."""
    database.run("ALTER TABLE canon.identity_origin ADD CHECK (origin_source_id <> 'bad')")
    database.lead("bad", matched_to=database.person())

    done = run_command("sweep", url=database.url, max_attempts="1")

    assert "bad: failed: 23514" in done.stderr
    assert "errors" in done.stdout


class TestImportantNotes:
    """«Notas importantes»."""

    def test_a_person_key_is_never_invented(self, database: Database) -> None:
        database.without_foreign_keys()
        known = {database.person() for _ in range(3)}
        for person in [*known, uuid.uuid4(), uuid.uuid4()]:
            database.lead(matched_to=person)
        database.link(database.lead(), uuid.uuid4())

        database.sweep()

        assert {row["person_key"] for row in database.run("SELECT person_key FROM canon.identity_registry")} == known
        assert {row["person_key"] for row in database.run("SELECT person_key FROM canon.identity_origin")} == known
        audited = database.run("SELECT recovered_person_key AS person FROM ops.cabinet_lead_recovery_audit")
        assert {row["person"] for row in audited} == known

    def test_eligibility_claims_and_payments_are_not_recomputed(self, database: Database) -> None:
        person = database.person()
        lead = database.lead(matched_to=person, created_at=(created_at := datetime.now()))
        database.run(
            "INSERT INTO ops.cabinet_recovery_claim (person_key, lead_date, milestone_trips, milestone_achieved, "
            "driver_id) VALUES (%s, %s, 5, true, 'driver-1'), (%s, %s, 25, false, NULL)",
            *(person, created_at.date()) * 2,
        )
        versions = "SELECT ctid::text, xmin::text, * FROM ops.cabinet_recovery_claim ORDER BY ctid"
        before = database.connection.execute(versions).fetchall()

        database.sweep()

        assert database.connection.execute(versions).fetchall() == before
        assert database.impact_of(lead)["impact_bucket"] == "recovered_within_14d_and_claim"

    def test_everything_that_was_written_can_be_audited(self, database: Database) -> None:
        for _ in range(3):
            database.lead(matched_to=database.person())
        database.link(database.lead(), database.person())

        database.sweep()

        unaudited = database.run(
            "SELECT origin_source_id FROM canon.identity_origin WHERE NOT EXISTS ("
            "SELECT FROM ops.cabinet_lead_recovery_audit AS audit WHERE audit.lead_id = origin_source_id "
            "AND audit.recovered_person_key = person_key AND audit.recovered_by = 'system')"
        )
        assert unaudited == []
        assert database.value("SELECT count(*) FROM ops.cabinet_lead_recovery_audit") == 4

    def test_of_the_host_s_tables_only_link_and_origin_are_written(self, database: Database) -> None:
        scouted = database.person()
        database.origin(scouted, tag="scout_registration")
        database.lead(matched_to=scouted)
        before = database.row_versions()

        database.sweep()

        after = database.row_versions()
        assert {table for table in HOST_TABLES if after[table] != before[table]} == WRITTEN
