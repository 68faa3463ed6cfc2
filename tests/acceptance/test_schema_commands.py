"""`consumer status`, `triggers` and `migrate`: what is pending, and what the service needs in the database."""

import json
import re

import psycopg
import pytest

from db.connect import SCHEMA_REVISION
from tests.database import Database
from tests.processes import (
    InThisProcess,
    refused,
    run_command,
)
from tests.servers import TemplateDatabase


class TestStatus:
    def test_shows_pending_exceptions_and_impact(self, call: InThisProcess, database: Database) -> None:
        self._work(database)

        done = call("status", DATABASE_URL=database.url)

        assert (done.returncode, done.stderr) == (0, "")
        for line in ("leads +2", "due now +1", r"oldest +\d+\.\d s", "no_person_key +1", "parked +1", "failed +1"):
            assert re.search(rf"^{line}$", done.stdout, re.MULTILINE), line

    def test_answers_machines_in_json(self, call: InThisProcess, database: Database) -> None:
        self._work(database)

        found = json.loads(call("status", "--json", DATABASE_URL=database.url).stdout)

        assert found.pop("oldest_pending_seconds") > 0
        assert found == {
            "pending_leads": 2,
            "due_leads": 1,
            "exceptions": {"failed": 1, "no_person_key": 1},
            "parked_leads": 1,
            "impact_buckets": {
                "still_unidentified": 1,
                "identified_but_missing_origin": 2,
                "recovered_late": 1,
            },
        }

    def _work(self, database: Database) -> None:
        """One lead recovered, late; one unmatched and looked at; one parked; one pending."""
        database.run("ALTER TABLE canon.identity_origin ADD CHECK (origin_source_id <> 'bad')")
        database.lead("bad", matched_to=database.person())
        database.lead("late", matched_to=database.person())
        database.reprocess(database.lead("unmatched"))
        database.sweep(max_attempts="1")
        database.lead("pending", matched_to=database.person())


class TestTriggers:
    def test_are_disabled_enabled_and_shown(self, call: InThisProcess, database: Database) -> None:
        def states() -> set[str]:
            shown = json.loads(call("triggers", "status", "--json", DATABASE_URL=database.owner_url).stdout)
            assert len(shown) == 4
            return {one["state"] for one in shown}

        assert states() == {"enabled"}
        assert call("triggers", "disable", DATABASE_URL=database.owner_url).returncode == 0
        assert states() == {"disabled"}
        lead = database.lead(matched_to=database.person())
        assert database.events() == []
        assert call("triggers", "enable", DATABASE_URL=database.owner_url).returncode == 0
        assert states() == {"enabled"}
        # "What was matched meanwhile, the next `consumer sweep` finds."
        assert call("sweep", DATABASE_URL=database.url).returncode == 0
        assert database.audit_of(lead)
        database.run("DROP TRIGGER cabinet_recovery_job_updated ON ops.identity_matching_jobs")
        assert states() == {"enabled", "missing"}
        assert "missing" in call("triggers", "status", DATABASE_URL=database.owner_url).stdout

    def test_on_a_table_that_is_locked_for_long_are_left_and_that_is_told(
        self, call: InThisProcess, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("db.trigger_switch.LOCK_ATTEMPTS", 2)
        with psycopg.connect(database.owner_url) as holder:
            holder.execute("LOCK TABLE canon.identity_links IN ROW EXCLUSIVE MODE")

            line = refused(call("triggers", "disable", DATABASE_URL=database.owner_url), 4)

        assert "end the long transaction on it" in line

    def test_are_the_owner_s_to_switch_and_nobody_else_s(self, call: InThisProcess, database: Database) -> None:
        line = refused(call("triggers", "disable", DATABASE_URL=database.url), 4)

        assert "it takes the owner of the host's tables" in line

    def test_that_are_missing_are_told_of_when_switched(self, call: InThisProcess, database: Database) -> None:
        database.run("DROP TRIGGER cabinet_recovery_job_updated ON ops.identity_matching_jobs")

        line = refused(call("triggers", "disable", DATABASE_URL=database.owner_url), 4)

        assert "cabinet_recovery_job_updated" in line


class TestMigrate:
    def test_tells_what_it_does_and_may_be_repeated(self, server_url: str) -> None:
        with TemplateDatabase(server_url, prepare=lambda _: None) as empty:
            url = empty.fresh()
            first, second = run_command("migrate", url=url), run_command("migrate", url=url)
            sweep = run_command("sweep", "--json", url=url)
            empty.drop(url)

        assert (first.returncode, second.returncode, sweep.returncode) == (0, 0, 0)
        assert first.stderr.count("Running upgrade") == int(SCHEMA_REVISION)
        assert first.stderr.endswith("the schema is up to date\n")
        assert second.stderr == "the schema is up to date\n"

    def test_that_finds_a_table_locked_for_long_gives_up_and_says_so(
        self, call: InThisProcess, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("migrations.execution.LOCK_ATTEMPTS", 2)
        database.run("UPDATE ops.cabinet_recovery_alembic_version SET version_num = '0004'")
        with psycopg.connect(database.owner_url) as holder:
            holder.execute("LOCK TABLE canon.identity_links IN ROW EXCLUSIVE MODE")

            done = call("migrate", DATABASE_URL=database.owner_url)

        assert "Traceback" not in done.stderr
        assert "end the long transaction on it" in done.stderr.splitlines()[-1]
        assert done.returncode == 4
