"""What hosts' tables hold in the end, though nobody meant them to: docs/dirty-data.md has a row for each."""

import unicodedata
from contextlib import closing
from datetime import UTC, datetime

import psycopg
import pytest

from consumer.handlers.outcome import Outcome
from consumer.reports.impact import read_impact
from consumer.reports.story import read_story
from db import keeping
from db.engine import open_engine
from db.reports import list_parked, read_status
from tests.database import Database, by_lead
from tests.servers import ascii_database

# Not one that an index can compress: 2,704 bytes are the most that a key may have.
LONG = "".join(chr(0x4E00 + n * n * 7919 % 20_011) for n in range(900))


def matched_lead(database: Database, created_at: str) -> str:
    """A matched lead whose creation only SQL can say."""
    lead_id = database.lead(created_at=None)
    database.run("UPDATE public.module_ct_cabinet_leads SET lead_created_at = %s::timestamp", created_at)
    database.job(lead_id, database.person())
    return lead_id


class TestADate:
    @pytest.mark.parametrize(
        "created_at",
        ["infinity", "-infinity", "294276-12-30", "0001-01-01", "4713-06-01 BC", "9999-12-31", "2999-01-01"],
    )
    def test_beyond_reason_is_recovered_and_harms_no_report(self, database: Database, created_at: str) -> None:
        other = database.lead(matched_to=database.person())
        lead = matched_lead(database, created_at)
        database.run("UPDATE public.module_ct_cabinet_leads SET lead_created_at = NULL WHERE external_id = %s", other)

        summary = database.sweep()

        assert summary.outcomes == {Outcome.RECOVERED: 2}
        created = "SELECT origin_created_at::text FROM canon.identity_origin WHERE origin_source_id = %s"
        assert database.value(created, lead) == database.value(
            "SELECT (%s::timestamp AT TIME ZONE 'UTC')::text", created_at
        )
        with open_engine(database.settings().database, "test") as engine:
            assert sum(read_status(engine).impact_buckets.values()) == 2
            assert read_impact(engine).totals.total_leads == 2
            assert read_story(engine, lead).state == "no_claim"
        assert database.sweep().outcomes.total() == 0

    @pytest.mark.parametrize(
        ("created_at", "zone"), [("294276-12-31 23:00", "America/Lima"), ("4714-11-24 BC", "Asia/Tokyo")]
    )
    def test_that_no_zone_can_hold_harms_that_lead_alone(self, database: Database, created_at: str, zone: str) -> None:
        lead = matched_lead(database, created_at)
        others = [database.lead(matched_to=database.person()) for _ in range(3)]
        database.run("UPDATE ops.cabinet_recovery_settings SET business_time_zone = %s", zone)

        summary = database.sweep(max_attempts="1")

        assert summary.outcomes == {Outcome.RECOVERED: 3, Outcome.FAILED: 1}
        assert all(database.audit_of(other) for other in others)
        exception = database.exception_of(lead)
        assert exception and exception["sqlstate"] == "22008" and exception["parked_at"]
        with open_engine(database.settings().database, "test") as engine:
            assert [one.lead_id for one in list_parked(engine, 10)] == [lead]
            assert read_status(engine).parked_leads == 1

    def test_that_lies_ahead_is_no_reason_to_wait(self, database: Database) -> None:
        lead = database.lead(created_at=datetime(2099, 1, 1), matched_to=database.person())

        assert database.sweep().outcomes == {Outcome.RECOVERED: 1}
        assert database.impact_of(lead)["recovered_within_14d"] is True


class TestTheWindow:
    @pytest.mark.parametrize(
        ("zone", "created_at", "closes_at"),
        [
            ("UTC", "2026-01-15 23:59:59", "2026-01-29 00:00:00+00"),
            # The clocks go forward on 29 March and back on 25 October 2026, each within the window.
            ("Europe/Madrid", "2026-03-20 12:00", "2026-04-02 22:00:00+00"),
            ("Europe/Madrid", "2026-10-20 12:00", "2026-11-02 23:00:00+00"),
            # Midnight itself is skipped: the day begins at one.
            ("America/Santiago", "2026-08-23 12:00", "2026-09-06 04:00:00+00"),
        ],
    )
    def test_closes_at_midnight_of_the_fourteenth_day_in_the_business_zone(
        self, database: Database, zone: str, created_at: str, closes_at: str
    ) -> None:
        database.run("UPDATE ops.cabinet_recovery_settings SET business_time_zone = %s", zone)
        lead = matched_lead(database, created_at)
        database.sweep()
        move = "UPDATE ops.cabinet_lead_recovery_audit SET first_recovered_at = %s::timestamptz + %s::interval"

        for late, bucket in (("0 s", "recovered_within_14d_but_no_claim"), ("1 microsecond", "recovered_late")):
            database.run(move, closes_at, late)
            assert database.impact_of(lead)["impact_bucket"] == bucket

    @pytest.mark.parametrize(
        ("created_at", "instant"),
        [("2026-03-29 02:30", "2026-03-29T01:30:00+00:00"), ("2026-10-25 02:30", "2026-10-25T01:30:00+00:00")],
        ids=["an hour that there was not", "an hour that came twice"],
    )
    def test_opens_with_a_lead_of_a_doubtful_hour(self, database: Database, created_at: str, instant: str) -> None:
        database.run("UPDATE ops.cabinet_recovery_settings SET business_time_zone = 'Europe/Madrid'")
        lead = matched_lead(database, created_at)

        assert database.sweep().outcomes == {Outcome.RECOVERED: 1}
        origin = database.run("SELECT origin_created_at FROM canon.identity_origin WHERE origin_source_id = %s", lead)
        assert origin[0]["origin_created_at"].astimezone(UTC).isoformat() == instant


class TestAnId:
    def test_that_is_empty_is_an_id(self, database: Database) -> None:
        person = database.person()
        database.run("INSERT INTO public.module_ct_cabinet_leads (external_id) VALUES ('')")
        database.job("", person)

        assert by_lead(database.recover("").recoveries)[""].outcome == Outcome.RECOVERED
        database.run("DELETE FROM canon.identity_origin")
        assert database.sweep().outcomes == {Outcome.RECOVERED: 1}

    def test_that_is_empty_is_looked_at_again_as_long_as_it_waits(self, database: Database) -> None:
        person = database.person()
        database.job("", person)
        assert database.recover("").recoveries[0].outcome == Outcome.UNKNOWN_LEAD
        database.run("INSERT INTO public.module_ct_cabinet_leads (external_id) VALUES ('')")

        assert database.sweep_waiting() == [""]

    def test_with_blanks_around_it_is_another_id(self, database: Database) -> None:
        leads = [database.lead(text, matched_to=database.person()) for text in ("A1", " A1", "A1 ", "A1\t", "a1")]

        database.sweep()

        assert all(origin_s_lead(database, lead) == lead for lead in leads)

    def test_of_any_alphabet_is_taken_as_it_is_written(self, database: Database) -> None:
        composed = "Peña"
        texts = [
            composed,
            unicodedata.normalize("NFD", composed),
            "🚕👩‍👩‍👧",
            "שלום",
            "a\u202eb",
            "e\u0301\u0302",
            "\u0001",
            "'; --",
        ]
        leads = [database.lead(text, matched_to=database.person()) for text in texts]

        assert database.sweep().outcomes == {Outcome.RECOVERED: len(texts)}
        assert all(origin_s_lead(database, lead) == lead for lead in leads)

    def test_that_equals_another_lead_s_number_is_its_owner_s(self, database: Database) -> None:
        number = database.lead(None, created_at=datetime(2026, 1, 1))
        owner = database.lead(number, created_at=datetime(2026, 2, 2))
        person = database.person()
        database.job(number, person)

        assert owner == number
        assert database.sweep().outcomes == {Outcome.RECOVERED: 1}
        origin = database.origin_of(person)
        assert origin and origin["origin_created_at"].isoformat() == "2026-02-02T00:00:00+00:00"

    def test_that_is_filled_in_later_makes_another_lead_of_it(self, database: Database) -> None:
        person = database.person()
        old = database.lead(None, matched_to=person)
        database.sweep()
        database.run("UPDATE public.module_ct_cabinet_leads SET external_id = 'filled'")

        assert database.sweep().outcomes.total() == 0, "nobody has matched the new id"
        database.job("filled", person)
        assert database.sweep().outcomes == {Outcome.RECOVERED: 1}

        assert origin_s_lead(database, "filled") == "filled"
        assert database.audit_of(old) and database.audit_of("filled"), "what was recovered stays on record"
        assert database.link_of(old) and database.link_of("filled"), "and no link of the host's is deleted"
        assert database.sweep().outcomes.total() == 0

    def test_too_long_for_the_host_s_index_on_links_harms_that_lead_alone(self, database: Database) -> None:
        good = [database.lead(matched_to=database.person()) for _ in range(3)]
        # It fits the host's leads and jobs and our outbox by a hair, and not the wider key of the host's links.
        text = LONG.encode()[:2682].decode(errors="ignore") + "xx"
        database.lead(text, matched_to=database.person())

        summary = database.sweep()

        assert summary.outcomes == {Outcome.RECOVERED: 3, Outcome.FAILED: 1}
        exception = database.exception_of(text)
        assert exception and exception["sqlstate"] == "54000"
        assert all(database.audit_of(lead) for lead in good)

    def test_of_7990_bytes_that_an_index_can_compress_is_recovered(self, database: Database) -> None:
        lead = database.lead("x" * 7_990, matched_to=database.person())

        assert database.sweep().outcomes == {Outcome.RECOVERED: 1}
        assert origin_s_lead(database, lead) == lead


class TestWhatPointsNowhere:
    def test_a_link_without_its_lead_waits_and_counts_for_nothing(self, database: Database) -> None:
        database.link("no-such-lead", database.person())

        assert database.sweep().outcomes == {Outcome.UNKNOWN_LEAD: 1}
        assert database.sweep().outcomes.total() == 0
        assert database.value("SELECT count(*) FROM canon.identity_origin") == 0

    def test_a_matched_job_without_a_person_is_no_match(self, database: Database) -> None:
        lead = database.lead()
        database.job(lead, None)

        assert database.sweep().outcomes.total() == 0
        assert database.reprocess(lead)[0].outcome == Outcome.NO_PERSON_KEY

    def test_an_origin_of_a_lead_that_was_deleted_is_free(self, database: Database) -> None:
        person = database.person()
        gone = database.lead(matched_to=person)
        database.sweep()
        database.run("DELETE FROM public.module_ct_cabinet_leads WHERE external_id = %s", gone)
        lead = database.lead(matched_to=person)

        database.sweep()

        assert origin_s_lead(database, lead) == lead
        assert database.audit_of(gone), "what was recovered stays on record"

    def test_a_person_who_is_merged_into_another_takes_the_lead_along(self, database: Database) -> None:
        old, new = database.person(), database.person()
        lead = database.lead(matched_to=old)
        database.sweep()
        with database.connection.transaction():
            database.run("UPDATE canon.identity_links SET person_key = %s WHERE person_key = %s", new, old)
            database.run("UPDATE ops.identity_matching_jobs SET matched_person_key = %s", new)
            database.run("DELETE FROM canon.identity_registry WHERE person_key = %s", old)

        assert database.sweep().outcomes == {Outcome.RECOVERED: 1}
        origin, audit = database.origin_of(new), database.audit_of(lead)
        assert origin and origin["origin_source_id"] == lead
        assert audit and audit["recovered_person_key"] == new
        assert audit["first_recovered_at"] < audit["last_recovered_at"]
        assert database.sweep().outcomes.total() == 0

    def test_a_parked_lead_that_the_host_deleted_says_so_and_is_let_go(self, database: Database) -> None:
        database.run("ALTER TABLE canon.identity_origin ADD CHECK (origin_source_id <> 'bad')")
        lead = database.lead("bad", matched_to=database.person())
        database.sweep(max_attempts="1")
        database.run("DELETE FROM public.module_ct_cabinet_leads")

        with open_engine(database.settings().database, "test") as engine:
            assert [(one.lead_id, one.is_gone) for one in list_parked(engine, 10)] == [(lead, True)]
            assert database.reprocess(lead)[0].outcome == Outcome.UNKNOWN_LEAD
            assert list_parked(engine, 10) == []
        assert database.events() == []


class TestAWordThatWeDoNotKnow:
    """Enums are the host's: it adds to them as it likes."""

    @pytest.mark.parametrize("decided_by", ["system", "manual"])
    def test_as_an_origin_s_tag_is_a_tag_like_any_other(self, database: Database, decided_by: str) -> None:
        database.run("ALTER TYPE origin_tag ADD VALUE 'partner_import'")
        person = database.person()
        database.origin(person, tag="partner_import", decided_by=decided_by)
        database.lead(matched_to=person)

        expected = Outcome.RECOVERED if decided_by == "system" else Outcome.ORIGIN_MANUAL
        assert database.sweep().outcomes == {expected: 1}

    def test_as_its_status_is_as_good_as_who_decided_it(self, database: Database) -> None:
        database.run("ALTER TYPE origin_resolution_status ADD VALUE 'under_review'")
        people = [database.person(), database.person()]
        for person, decided_by in zip(people, ("system", "manual"), strict=True):
            database.origin(person, tag="migration", status="under_review", decided_by=decided_by)
            database.lead(matched_to=person)

        assert database.sweep().outcomes == {Outcome.RECOVERED: 1, Outcome.ORIGIN_MANUAL: 1}

    def test_as_a_link_s_confidence_is_none_of_our_business(self, database: Database) -> None:
        database.run("ALTER TYPE confidencelevel ADD VALUE 'CERTAIN'")
        lead, person = database.lead(), database.person()
        database.link(lead, person)
        database.run("UPDATE canon.identity_links SET confidence_level = 'CERTAIN'")
        moved = database.person()
        database.job(lead, moved)

        assert database.sweep().outcomes == {Outcome.RECOVERED: 1}
        link = database.link_of(lead)
        assert link and link["evidence"]["previous"]["confidence_level"] == "CERTAIN"


@pytest.mark.parametrize("sqlstate", ["P0002", "P0003", "P0004", "21000", "27000", "38000", "44000", "ABC01", "XX001"])
def test_whatever_a_host_s_trigger_raises_for_one_lead_harms_that_lead_alone(database: Database, sqlstate: str) -> None:
    raise_for_bad(database, sqlstate)
    database.lead("bad", created_at=datetime.now(), matched_to=database.person())
    good = [database.lead(matched_to=database.person()) for _ in range(3)]

    summary = database.sweep(max_attempts="1")

    assert summary.outcomes == {Outcome.RECOVERED: 3, Outcome.FAILED: 1}
    exception = database.exception_of("bad")
    assert exception and exception["sqlstate"] == sqlstate and exception["parked_at"]
    assert all(database.audit_of(lead) for lead in good)


@pytest.mark.parametrize("sqlstate", ["42P01", "53100", "57P01", "58030", "XX000", "HV000", "25006"])
def test_what_is_wrong_for_all_leads_counts_against_none(database: Database, sqlstate: str) -> None:
    raise_for_bad(database, sqlstate)
    database.lead("bad", matched_to=database.person())

    with pytest.raises(Exception, match="not this one"):
        database.sweep()

    assert database.exception_of("bad") is None
    assert database.events() == [("bad", "matching_job")]


def raise_for_bad(database: Database, sqlstate: str) -> None:
    database.connection.execute(f"""
        CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF new.origin_source_id = 'bad' THEN RAISE EXCEPTION 'not this one' USING ERRCODE = '{sqlstate}'; END IF;
            RETURN new;
        END $$
    """)
    database.run(
        "CREATE TRIGGER refuse BEFORE INSERT ON canon.identity_origin FOR EACH ROW EXECUTE FUNCTION public.refuse()"
    )


def origin_s_lead(database: Database, lead_id: str) -> str:
    """The lead of the origin of the person whom this lead's link names."""
    link = database.link_of(lead_id)
    assert link
    origin = database.origin_of(link["person_key"])
    assert origin
    return str(origin["origin_source_id"])


def test_ids_that_are_no_text_are_passed_by(server_url: str) -> None:
    with ascii_database(server_url) as url, closing(Database(url)) as database:
        leads = [database.lead(external_id=one, matched_to=database.person()) for one in ("plain", "peña", "€", "🚕")]
        for broken in (rb"pe\361a", rb"\300\200", rb"\355\240\200", rb"\364\220\200\200", rb"\342\202"):
            database.connection.execute(b"INSERT INTO public.module_ct_cabinet_leads (external_id) VALUES (E'" + broken
                                        + b"')")  # fmt: skip
        person = database.person()
        database.run(
            "INSERT INTO ops.identity_matching_jobs (source_type, source_id, status, matched_person_key) "
            "SELECT 'cabinet', external_id, 'matched', %s FROM public.module_ct_cabinet_leads "
            "WHERE lead_created_at IS NULL",
            person,
        )
        with psycopg.connect(url, client_encoding="UTF8") as keeper:
            (_, _, seen_by_keeper) = keeper.execute(keeping.LOOK, {"limit": 100}).fetchone() or (0, [], [])

        summary = database.sweep()

        assert sorted(seen_by_keeper) == sorted(leads)
        assert summary.outcomes == {Outcome.RECOVERED: len(leads)}
