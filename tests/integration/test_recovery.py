"""The rules of recovery, one by one."""

import asyncio
import random
from collections import Counter
from datetime import datetime, timedelta
from uuid import uuid4

import pytest

from consumer.connection import open_handler
from consumer.handlers.outcome import Batch, Outcome, Recovery
from consumer.handlers.recover import Asked
from tests.database import Database
from tests.days import today
from tests.engine import held_handler


def test_a_matched_job_becomes_link_origin_and_audit(database: Database) -> None:
    person = database.person()
    lead = database.lead(matched_to=person, created_at=datetime(2026, 1, 15, 12, 0))

    recovery = database.recover_pending()[lead]

    assert (recovery.outcome, recovery.method) == (Outcome.RECOVERED, "matching_job")
    assert (recovery.link, recovery.origin, recovery.audit) == ("create", "create", "create")
    link, origin, audit = database.link_of(lead), database.origin_of(person), database.audit_of(lead)
    assert link and origin and audit
    job_id = database.value("SELECT id FROM ops.identity_matching_jobs WHERE source_id = %s", lead)
    assert link["person_key"] == person
    assert (link["match_rule"], link["match_score"], link["confidence_level"]) == ("cabinet_recovery", 95, "HIGH")
    assert link["evidence"] == {"job_id": job_id}
    assert link["snapshot_date"].isoformat() == "2026-01-15T12:00:00+00:00"
    assert (origin["origin_tag"], origin["origin_source_id"]) == ("cabinet_lead", lead)
    assert (origin["origin_confidence"], origin["resolution_status"]) == (95, "resolved_auto")
    assert origin["decided_by"] == "system"
    assert origin["origin_created_at"].isoformat() == "2026-01-15T12:00:00+00:00"
    assert audit["recovered_person_key"] == person
    assert (audit["recovered_by"], audit["recovery_method"]) == ("system", "matching_job")
    assert audit["first_recovered_at"] == audit["last_recovered_at"]
    assert database.events() == []


def test_a_link_of_the_engine_becomes_origin_and_audit(database: Database) -> None:
    person, lead = database.person(), database.lead()
    database.link(lead, person)
    before = database.link_of(lead)

    recovery = database.recover_pending()[lead]

    assert (recovery.outcome, recovery.method, recovery.link) == (Outcome.RECOVERED, "identity_link", None)
    assert database.link_of(lead) == before
    origin, audit = database.origin_of(person), database.audit_of(lead)
    assert origin and origin["origin_source_id"] == lead
    assert audit and audit["recovery_method"] == "identity_link"


def test_the_lead_id_is_the_id_where_there_is_no_external_id(database: Database) -> None:
    person = database.person()
    lead = database.lead(None, matched_to=person)

    assert database.recover_pending()[lead].outcome == Outcome.RECOVERED

    assert lead.isdigit()
    assert database.value("SELECT origin_source_id FROM canon.identity_origin") == lead


def test_of_two_leads_with_one_lead_id_the_one_whose_external_id_it_is_wins(database: Database) -> None:
    person = database.person()
    plain = database.lead(None, created_at=datetime(2026, 1, 1))
    database.lead(plain, created_at=datetime(2026, 2, 2))
    database.job(plain, person)

    database.recover_pending()

    origin = database.origin_of(person)
    assert origin and origin["origin_created_at"].isoformat() == "2026-02-02T00:00:00+00:00"
    assert len(database.run("SELECT lead_id FROM ops.v_cabinet_recovery_decision")) == 1


def test_a_lead_without_a_date_takes_the_time_of_its_link(database: Database) -> None:
    person, lead = database.person(), database.lead(created_at=None)
    database.link(lead, person)

    database.recover_pending()

    link, origin = database.link_of(lead), database.origin_of(person)
    assert link and origin and origin["origin_created_at"] == link["linked_at"]


def test_the_lead_s_time_is_read_in_the_business_time_zone(database: Database) -> None:
    database.run("UPDATE ops.cabinet_recovery_settings SET business_time_zone = 'America/Lima'")
    person = database.person()
    database.lead(matched_to=person, created_at=datetime(2026, 1, 15, 22, 0))

    database.recover_pending()

    origin = database.origin_of(person)
    assert origin and origin["origin_created_at"].isoformat() == "2026-01-16T03:00:00+00:00"


def test_an_unmatched_lead_is_skipped_and_says_so(database: Database) -> None:
    lead = database.lead()

    (recovery,) = database.reprocess(lead)

    exception = database.exception_of(lead)
    assert recovery.outcome == Outcome.NO_PERSON_KEY
    assert exception and (exception["outcome"], exception["message"]) == (recovery.outcome, recovery.reason)
    assert database.sweep().as_job_result()["processed"] == 0


class TestTheLink:
    """The link is canonical; only a new match moves it."""

    def test_wins_over_a_job_without_an_event(self, database: Database) -> None:
        linked, matched, lead = database.person(), database.person(), database.lead()
        database.link(lead, linked)
        database.job(lead, matched)
        database.run("DELETE FROM ops.cabinet_recovery_outbox")

        database.sweep()

        link = database.link_of(lead)
        assert link and link["person_key"] == linked
        assert database.origin_of(matched) is None

    def test_moves_with_a_new_match_and_remembers_the_old(self, database: Database) -> None:
        old, new, lead = database.person(), database.person(), database.lead()
        database.link(lead, old, rule="phone_exact", score=80)
        database.recover_pending()
        before = database.link_of(lead)
        database.job(lead, new)

        recovery = database.recover_pending()[lead]

        link, origin = database.link_of(lead), database.origin_of(new)
        assert before and link and origin
        assert (recovery.outcome, recovery.link, recovery.audit) == (Outcome.RECOVERED, "move", "update")
        assert (link["person_key"], origin["origin_source_id"]) == (new, lead)
        previous = link["evidence"]["previous"]
        assert (previous["person_key"], previous["match_rule"], previous["match_score"]) == (
            str(old),
            "phone_exact",
            80,
        )
        assert datetime.fromisoformat(previous["linked_at"]) == before["linked_at"] < link["linked_at"]
        assert previous["evidence"] == {"by": "host"}

    def test_stays_where_a_hand_mended_it_after_the_match(self, database: Database) -> None:
        wrong, right, lead = database.person(), database.person(), database.lead()
        database.job(lead, wrong)
        database.recover_pending()
        database.link(lead, right, rule="by_hand")

        database.recover_pending()
        database.sweep()

        link = database.link_of(lead)
        assert link and (link["person_key"], link["match_rule"]) == (right, "by_hand")

    def test_stays_where_a_hand_mended_it_before_the_match_was_handled(self, database: Database) -> None:
        wrong, right, lead = database.person(), database.person(), database.lead()
        database.job(lead, wrong)
        database.link(lead, right)

        database.recover_pending()

        link = database.link_of(lead)
        assert link and link["person_key"] == right
        assert database.origin_of(wrong) is None

    def test_is_not_hidden_by_a_job_whose_person_is_unknown(self, database: Database) -> None:
        database.without_foreign_keys()
        known, unknown, lead = database.person(), uuid4(), database.lead()
        database.link(lead, known)
        database.job(lead, unknown)

        assert database.recover_pending()[lead].outcome == Outcome.RECOVERED

        origin, exception = database.origin_of(known), database.exception_of(lead)
        assert origin and origin["origin_source_id"] == lead
        assert exception and exception["outcome"] == Outcome.UNKNOWN_PERSON
        # The match is not lost: it moves the link as soon as its person is there.
        database.register(unknown)
        database.sweep()
        link, exception = database.link_of(lead), database.exception_of(lead)
        assert link and link["person_key"] == unknown
        assert exception and exception["resolved_at"] is not None

    def test_that_changes_under_our_hands_keeps_the_event(self, database: Database) -> None:
        """The engine's own link, not yet committed when we look, is there when we write."""
        ours, theirs, lead = database.person(), database.person(), database.lead()
        database.job(lead, ours)
        engine = Database(database.owner_url)
        with engine.connection.transaction():
            engine.link(lead, theirs)
            batch = database.recover(lead)

        assert batch.busy == [lead]
        assert database.origin_of(ours) is None
        database.recover_pending()
        link, origin = database.link_of(lead), database.origin_of(theirs)
        assert link and link["person_key"] == theirs
        assert origin and origin["origin_source_id"] == lead
        engine.close()


class TestTheOrigin:
    """An origin is somebody's decision."""

    def test_of_this_lead_is_left_whoever_decided_it(self, database: Database) -> None:
        person, lead = database.person(), database.lead()
        database.link(lead, person)
        database.origin(person, source=lead, decided_by="manual", status="resolved_manual")
        before = database.row_versions()["canon.identity_origin"]

        assert database.recover_pending()[lead].outcome == Outcome.UNCHANGED

        assert database.row_versions()["canon.identity_origin"] == before
        assert database.audit_of(lead) is None

    @pytest.mark.parametrize(
        ("decided_by", "status"),
        [
            ("manual", "resolved_auto"),
            ("system", "resolved_manual"),
            ("system", "discarded"),
            ("system", "marked_legacy"),
        ],
    )
    def test_decided_by_hand_is_left(self, database: Database, decided_by: str, status: str) -> None:
        person = database.person()
        database.origin(person, tag="migration", decided_by=decided_by, status=status)
        lead = database.lead(matched_to=person)

        summary = database.sweep()

        assert summary.as_job_result()["skipped"] == 1
        origin, link = database.origin_of(person), database.link_of(lead)
        assert origin and origin["origin_tag"] == "migration"
        assert link and link["person_key"] == person, "the link is kept all the same"
        assert database.audit_of(lead) is None

    def test_of_another_tag_is_replaced_and_goes_into_the_history(self, database: Database) -> None:
        person = database.person()
        database.origin(person, tag="scout_registration", source="scout-7")
        lead = database.lead(matched_to=person)

        recovery = database.recover_pending()[lead]

        origin = database.origin_of(person)
        assert (recovery.outcome, recovery.origin) == (Outcome.RECOVERED, "update")
        assert origin and (origin["origin_tag"], origin["origin_source_id"]) == ("cabinet_lead", lead)
        assert origin["evidence"]["replaced"]["origin_source_id"] == "scout-7"
        (history,) = database.run("SELECT * FROM canon.identity_origin_history")
        assert (history["origin_tag_old"], history["origin_source_id_old"]) == ("scout_registration", "scout-7")

    def test_held_by_another_lead_of_the_person_is_left(self, database: Database) -> None:
        person = database.person()
        first = database.lead(matched_to=person, created_at=datetime(2026, 2, 1))
        database.recover_pending()
        second = database.lead(matched_to=person, created_at=datetime(2026, 1, 1))

        recovery = database.recover_pending()[second]

        origin = database.origin_of(person)
        assert recovery.outcome == Outcome.ORIGIN_HELD
        assert first in recovery.reason
        assert origin and origin["origin_source_id"] == first
        assert database.link_of(second)
        assert database.audit_of(second) is None

    def test_held_by_a_lead_that_is_gone_is_taken_over(self, database: Database) -> None:
        person = database.person()
        database.origin(person, source="no-such-lead")
        lead = database.lead(matched_to=person)

        assert database.recover_pending()[lead].origin == "update"

    def test_held_by_a_lead_that_is_another_s_now_is_taken_over(self, database: Database) -> None:
        person, other = database.person(), database.person()
        holder = database.lead(matched_to=person)
        lead = database.lead(matched_to=person)
        database.recover_pending()
        assert database.sweep().as_job_result()["processed"] == 0
        database.job(holder, other)

        database.sweep()
        database.sweep()

        origin, moved = database.origin_of(person), database.origin_of(other)
        assert origin and origin["origin_source_id"] == lead
        assert moved and moved["origin_source_id"] == holder

    def test_goes_to_the_earlier_lead_of_one_batch(self, database: Database) -> None:
        database.give_batches_time()
        person = database.person()
        undated = database.lead("a", matched_to=person, created_at=None)
        later = database.lead("b", matched_to=person, created_at=datetime(2026, 1, 2))
        same_day = database.lead("d", matched_to=person, created_at=datetime(2026, 1, 1))
        first = database.lead("c", matched_to=person, created_at=datetime(2026, 1, 1))

        batch = database.recover(undated, later, same_day, first)

        outcomes = {recovery.lead_id: recovery.outcome for recovery in batch.recoveries}
        assert outcomes.pop(first) == Outcome.RECOVERED
        assert set(outcomes.values()) == {Outcome.ORIGIN_HELD}

    def test_stays_with_the_lead_that_moves_back_to_its_person_in_the_same_batch(self, database: Database) -> None:
        database.give_batches_time()
        person, other = database.person(), database.person()
        holder = database.lead(matched_to=person, created_at=datetime(2026, 3, 3))
        database.recover_pending()
        database.link(holder, other)
        database.recover_pending()
        database.job(holder, None, status="pending")
        database.job(holder, person)
        earlier = database.lead(matched_to=person, created_at=datetime(2026, 1, 1))

        batch = database.recover(earlier, holder)

        assert {one.lead_id: one.outcome for one in batch.recoveries} == {
            earlier: Outcome.ORIGIN_HELD,
            holder: Outcome.RECOVERED,
        }
        origin = database.origin_of(person)
        assert origin and origin["origin_source_id"] == holder


class TestWaiting:
    """A match is not lost because its lead or person comes later."""

    def test_for_the_lead(self, database: Database) -> None:
        person = database.person()
        database.job("late", person)

        assert database.recover_pending()["late"].outcome == Outcome.UNKNOWN_LEAD
        assert database.events() == []
        assert database.sweep().outcomes.total() == 0
        database.lead("late")
        database.sweep()

        origin, exception = database.origin_of(person), database.exception_of("late")
        assert origin and origin["origin_source_id"] == "late"
        assert exception and exception["resolved_at"] and exception["parked_at"] is None

    def test_for_the_lead_with_a_match_that_moves_its_link(self, database: Database) -> None:
        old, new = database.person(), database.person()
        database.link("late", old)
        database.job("late", new)
        database.recover_pending()
        database.lead("late")

        database.sweep()

        link = database.link_of("late")
        assert link and link["person_key"] == new

    @pytest.mark.parametrize("through", ["link", "job"])
    def test_for_the_person(self, database: Database, through: str) -> None:
        database.without_foreign_keys()
        person, lead = uuid4(), database.lead()
        (database.link if through == "link" else database.job)(lead, person)

        assert database.recover_pending()[lead].outcome == Outcome.UNKNOWN_PERSON
        assert database.sweep().outcomes.total() == 0
        database.register(person)
        database.sweep()

        origin = database.origin_of(person)
        assert origin and origin["origin_source_id"] == lead


class TestRepetition:
    def test_writes_nothing(self, database: Database) -> None:
        people = [database.person() for _ in range(3)]
        database.origin(people[1], tag="migration", decided_by="manual")
        for person in [*people, people[0]]:
            database.lead(matched_to=person)
        database.lead()
        database.sweep()
        database.sweep()
        before = database.row_versions()

        again = database.sweep()

        assert again.outcomes.total() == 0
        assert database.row_versions() == before

    def test_never_moves_the_first_recovery(self, database: Database) -> None:
        lead = database.lead(matched_to=database.person())
        database.recover_pending()
        first = database.audit_of(lead)
        database.job(lead, database.person())

        database.recover_pending()

        last = database.audit_of(lead)
        assert first and last
        assert first["first_recovered_at"] == last["first_recovered_at"] < last["last_recovered_at"]
        assert len(database.run("SELECT lead_id FROM ops.cabinet_lead_recovery_audit")) == 1

    def test_by_name_of_what_is_done_says_unchanged(self, database: Database) -> None:
        lead = database.lead(matched_to=database.person())
        database.recover_pending()

        assert [one.outcome for one in database.reprocess(lead, lead)] == [Outcome.UNCHANGED]

    def test_of_an_event_in_a_batch_is_settled_with_the_first(self, database: Database) -> None:
        person, lead = database.person(), database.lead()
        for _ in range(3):
            database.job(lead, None, status="pending")
            database.job(lead, person)

        batch = database.recover(lead, lead)

        assert [one.outcome for one in batch.recoveries] == [Outcome.RECOVERED]
        assert database.events() == []


class TestALeadAtFault:
    """One bad lead harms only itself."""

    @pytest.fixture
    def bad(self, database: Database) -> str:
        """A lead whose origin the host's trigger refuses."""
        database.run("""
            CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                IF new.origin_source_id = 'bad' THEN RAISE EXCEPTION 'not this one'; END IF;
                RETURN new;
            END $$
        """)
        database.run(
            "CREATE TRIGGER refuse BEFORE INSERT ON canon.identity_origin FOR EACH ROW EXECUTE FUNCTION public.refuse()"
        )
        return database.lead("bad", matched_to=database.person())

    def test_stands_alone_in_the_exceptions(self, database: Database, bad: str) -> None:
        good = [database.lead(matched_to=database.person()) for _ in range(9)]

        batch = database.recover(*good[:4], bad, *good[4:])

        outcomes = {one.lead_id: one.outcome for one in batch.recoveries}
        assert outcomes.pop(bad) == Outcome.FAILED
        assert set(outcomes) == set(good)
        assert set(outcomes.values()) == {Outcome.RECOVERED}
        exception = database.exception_of(bad)
        assert exception and exception["sqlstate"] == "P0001"
        assert (exception["message"], exception["attempts"]) == ("not this one", 1)
        assert database.link_of(bad) is None, "what belongs together is undone together"
        assert database.events() == [(bad, "matching_job")]

    def test_is_passed_by_until_its_time(self, database: Database, bad: str) -> None:
        database.recover_pending()
        # A second later it would be its time.
        database.run("UPDATE ops.cabinet_recovery_exception SET next_attempt_at = next_attempt_at + interval '1 hour'")

        assert database.recover_pending() == {}
        assert database.recover(bad).recoveries == []
        database.run("UPDATE ops.cabinet_recovery_exception SET next_attempt_at = now()")
        assert database.recover_pending()[bad].outcome == Outcome.FAILED

        exception = database.exception_of(bad)
        assert exception and exception["attempts"] == 2
        assert exception["next_attempt_at"] - exception["last_seen_at"] == timedelta(seconds=2)

    def test_is_parked_in_the_end_and_freed_by_a_new_match(self, database: Database, bad: str) -> None:
        database.recover(bad, max_attempts="1")
        exception = database.exception_of(bad)
        assert exception and exception["parked_at"]
        database.run("UPDATE ops.cabinet_recovery_exception SET next_attempt_at = now()")
        assert database.recover_pending() == {}
        database.run("DROP TRIGGER refuse ON canon.identity_origin")
        database.job(bad, database.person())

        assert database.recover_pending()[bad].outcome == Outcome.RECOVERED

        exception = database.exception_of(bad)
        assert exception and exception["resolved_at"]

    def test_is_freed_by_an_operator(self, database: Database, bad: str) -> None:
        database.recover(bad, max_attempts="1")
        database.run("DROP TRIGGER refuse ON canon.identity_origin")

        assert [one.outcome for one in database.reprocess(bad)] == [Outcome.RECOVERED]

    def test_found_by_a_sweep_keeps_an_event(self, database: Database, bad: str) -> None:
        database.run("DELETE FROM ops.cabinet_recovery_outbox")

        result = database.sweep().as_job_result()

        assert result["errors"] == ["bad: failed: P0001 not this one"]
        assert database.events() == [(bad, "reconcile")]


def test_an_id_without_an_event_changes_nothing(database: Database) -> None:
    lead = database.lead(matched_to=database.person())
    database.recover_pending()
    before = database.row_versions()

    batch = database.recover("unknown", lead, "'; DROP TABLE canon.identity_links; --", "x" * 7999, "\x01\x02")

    assert (batch.recoveries, batch.busy) == ([], [])
    assert database.row_versions() == before


class TestTwoThatAskForTheSameLead:
    """Found by its state, without an event that one of them could lock before the other."""

    def test_do_not_double_it_where_one_is_about_to_commit(self, database: Database) -> None:
        (lead,) = eventless_leads(database, 1)

        with held_handler(database, lead, by_state=True) as first:
            meanwhile = database.recover(lead, asked=Asked.BY_SWEEP)
            first.commit()
        before = database.row_versions()
        again = database.recover(lead, asked=Asked.BY_SWEEP)

        assert (meanwhile.recoveries, meanwhile.busy) == ([], [lead])
        assert again == Batch()
        assert database.row_versions() == before
        assert_recovered_once(database, [lead])

    def test_do_not_double_any_of_many_at_the_same_time(self, database: Database) -> None:
        leads = eventless_leads(database, 120)

        told = asyncio.run(ask_side_by_side(database, leads, handlers=4))

        assert Counter(one.lead_id for one in told if one.outcome == Outcome.RECOVERED) == Counter(leads)
        assert {one.outcome for one in told} == {Outcome.RECOVERED}
        assert_recovered_once(database, leads)


def eventless_leads(database: Database, count: int) -> list[str]:
    """Leads with the engine's link, of which no event tells."""
    leads = [database.lead() for _ in range(count)]
    for lead in leads:
        database.link(lead, database.person())
    database.run("DELETE FROM ops.cabinet_recovery_outbox")
    return leads


async def ask_side_by_side(database: Database, leads: list[str], handlers: int) -> list[Recovery]:
    """Have each handler ask for every lead, in batches and an order of its own, until nobody holds one any more."""
    ready = asyncio.Barrier(handlers)

    async def ask(seed: int) -> list[Recovery]:
        handler = await open_handler(database.settings(), "test")
        async with handler.connection:
            await ready.wait()
            batch = Batch(busy=random.Random(seed).sample(leads, k=len(leads)))
            while batch.busy:
                part, rest = batch.busy[:7], batch.busy[7:]
                batch = Batch(batch.recoveries, rest) + await handler.recover(part, Asked.BY_SWEEP)
            return batch.recoveries

    answers = await asyncio.gather(*map(ask, range(handlers)))
    return [recovery for answer in answers for recovery in answer]


def assert_recovered_once(database: Database, leads: list[str]) -> None:
    audits = database.run("SELECT lead_id, first_recovered_at, last_recovered_at FROM ops.cabinet_lead_recovery_audit")
    assert sorted(row["lead_id"] for row in audits) == sorted(leads)
    assert all(row["first_recovered_at"] == row["last_recovered_at"] for row in audits)
    origins = database.run("SELECT origin_source_id FROM canon.identity_origin")
    assert sorted(row["origin_source_id"] for row in origins) == sorted(leads)
    assert database.run("SELECT person_key FROM canon.identity_origin_history") == []
    assert database.events() == []


def test_the_most_urgent_come_first(database: Database) -> None:
    def lead(days_ago: float | None) -> str:
        created_at = None if days_ago is None else today() - timedelta(days=days_ago)
        return database.lead(created_at=created_at, matched_to=database.person())

    undated, old, new, expired, closing = lead(None), lead(60), lead(1), lead(20), lead(13)

    for expected in (closing, new, expired, old, undated):
        database.sweep(limit=1)
        assert database.audit_of(expected), expected
