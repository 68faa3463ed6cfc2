"""`consumer reprocess` and `consumer parked`: leads by name."""

import json

import pytest

from tests.database import Database
from tests.processes import (
    InThisProcess,
    refused,
)


class TestReprocess:
    def test_says_of_each_lead_what_happened_and_why(self, call: InThisProcess, database: Database) -> None:
        person = database.person()
        database.lead("matched", matched_to=database.person())
        database.lead("unmatched")
        database.lead("by-hand", matched_to=person)
        database.origin(person, tag="migration", decided_by="manual")

        done = call("reprocess", "matched", "unmatched", "by-hand", DATABASE_URL=database.url)

        assert (done.returncode, done.stderr) == (0, "")
        rows = [line.split(maxsplit=4) for line in done.stdout.splitlines()[1:]]
        assert [row[:4] for row in rows] == [
            ["matched", "recovered", "create", "create"],
            ["unmatched", "no_person_key", "-", "-"],
            ["by-hand", "origin_manual", "create", "-"],
        ]
        assert all(len(row[4]) > 15 for row in rows)
        again = call("reprocess", "matched", DATABASE_URL=database.url)
        assert "unchanged" in again.stdout
        assert again.returncode == 0

    def test_of_an_unknown_lead_ends_with_5_and_the_others_are_done(
        self, call: InThisProcess, database: Database
    ) -> None:
        known = database.lead(matched_to=database.person())

        done = call("reprocess", "nobody", known, DATABASE_URL=database.url)

        assert done.returncode == 5
        (line,) = done.stderr.splitlines()
        assert line.startswith("consumer: nobody: unknown_lead: ")
        assert database.audit_of(known)

    @pytest.mark.parametrize("lead_id", ["x" * 10_000, "車" * 3_000], ids=["ascii", "wide"])
    def test_of_an_id_of_10_000_characters_says_so_in_one_line(
        self, call: InThisProcess, database: Database, lead_id: str
    ) -> None:
        done = call("reprocess", lead_id, DATABASE_URL=database.url)

        assert done.returncode == 5
        (line,) = done.stderr.splitlines()
        assert len(line) < 300
        assert f"({len(lead_id)} characters)" in line
        assert database.run("SELECT lead_id FROM ops.cabinet_recovery_exception") == []

    def test_of_an_id_with_control_characters_does_not_reach_the_terminal(
        self, call: InThisProcess, database: Database
    ) -> None:
        done = call("reprocess", "a\nb\x1b[31m\rc", DATABASE_URL=database.url)

        assert done.returncode == 5
        assert len(done.stderr.splitlines()) == 1
        assert "\x1b" not in done.stdout + done.stderr

    def test_of_a_failing_lead_ends_with_5(self, call: InThisProcess, database: Database) -> None:
        database.run("ALTER TABLE canon.identity_origin ADD CHECK (origin_source_id <> 'bad')")
        database.lead("bad", matched_to=database.person())

        done = call("reprocess", "bad", DATABASE_URL=database.url)

        assert done.returncode == 5
        assert "23514" in done.stdout
        assert done.stderr.startswith("consumer: bad: failed: 23514")

    def test_answers_machines_in_json(self, call: InThisProcess, database: Database) -> None:
        known = database.lead(matched_to=database.person())

        done = call("reprocess", "--json", known, "nobody", DATABASE_URL=database.url)

        answers = json.loads(done.stdout)
        assert done.returncode == 5
        assert [(one["lead_id"], one["outcome"]) for one in answers] == [
            (known, "recovered"),
            ("nobody", "unknown_lead"),
        ]
        assert all(one["reason"] for one in answers)

    def test_takes_a_lead_id_that_looks_like_an_option(self, call: InThisProcess, database: Database) -> None:
        lead = database.lead("--json", matched_to=database.person())

        assert call("reprocess", "--", lead, DATABASE_URL=database.url).returncode == 0
        assert database.audit_of(lead)


class TestParked:
    @pytest.fixture
    def parked(self, database: Database) -> list[str]:
        """Two leads that a constraint of the host's keeps from being recovered, given up at once."""
        database.run("ALTER TABLE canon.identity_origin ADD CONSTRAINT fault CHECK (origin_source_id NOT LIKE 'bad%%')")
        leads = [database.lead(name, matched_to=database.person()) for name in ("bad-1", "bad-2")]
        database.sweep(max_attempts="1")
        return leads

    def test_are_listed_with_what_the_database_said(
        self, call: InThisProcess, database: Database, parked: list[str]
    ) -> None:
        shown = call("parked", "list", DATABASE_URL=database.url)
        told = json.loads(call("parked", "list", "--json", "--limit", "1", DATABASE_URL=database.url).stdout)

        assert shown.returncode == 0
        assert all(lead in shown.stdout for lead in parked)
        assert "23514" in shown.stdout
        assert "2 of 2 parked leads" in shown.stderr
        assert [(one["lead_id"] in parked, one["attempts"], one["sqlstate"]) for one in told] == [(True, 1, "23514")]

    def test_are_shown_one_by_one_with_what_would_be_done(
        self, call: InThisProcess, database: Database, parked: list[str]
    ) -> None:
        shown = call("parked", "show", parked[0], DATABASE_URL=database.url)
        told = json.loads(call("parked", "show", parked[0], "--json", DATABASE_URL=database.url).stdout)

        assert "23514" in shown.stdout
        assert (told["attempts"], told["events"], told["link_action_now"], told["origin_action_now"]) == (
            *(1, 1, "create", "create"),
        )
        assert "is not parked" in refused(call("parked", "show", "nobody", DATABASE_URL=database.url), 5)

    def test_are_tried_again_by_name_once_the_data_are_mended(
        self, call: InThisProcess, database: Database, parked: list[str]
    ) -> None:
        database.run("ALTER TABLE canon.identity_origin DROP CONSTRAINT fault")

        done = call("parked", "retry", parked[0], DATABASE_URL=database.url)

        assert (done.returncode, done.stderr) == (0, "")
        assert [lead for lead in parked if database.audit_of(lead)] == parked[:1]
        left = json.loads(call("parked", "list", "--json", DATABASE_URL=database.url).stdout)
        assert [one["lead_id"] for one in left] == parked[1:]

    def test_are_all_tried_again_and_start_over_where_they_still_fail(
        self, call: InThisProcess, database: Database, parked: list[str]
    ) -> None:
        done = call("parked", "retry", "--all", "--json", DATABASE_URL=database.url)

        assert done.returncode == 5
        assert {one["lead_id"]: one["outcome"] for one in json.loads(done.stdout)} == dict.fromkeys(parked, "failed")
        for lead in parked:
            exception = database.exception_of(lead)
            assert exception and (exception["attempts"], exception["parked_at"]) == (1, None)

    def test_are_the_only_ones_that_retry_takes(
        self, call: InThisProcess, database: Database, parked: list[str]
    ) -> None:
        other = database.lead(matched_to=database.person())

        done = call("parked", "retry", other, DATABASE_URL=database.url)

        assert done.returncode == 5
        assert done.stderr == f"consumer: {other} is not parked; see `consumer reprocess`\n"
        assert database.audit_of(other) is None
        assert refused(call("parked", "retry", DATABASE_URL=database.url), 2)
        assert refused(call("parked", "retry", *parked, "--all", DATABASE_URL=database.url), 2)

    def test_where_there_are_none_is_no_error(self, call: InThisProcess, database: Database) -> None:
        done = call("parked", "retry", "--all", "--json", DATABASE_URL=database.url)

        assert (done.returncode, json.loads(done.stdout)) == (0, [])
