"""Many handlers and an engine at once: same end state, and the engine never pays for it."""

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import Any

import psycopg
import pytest

from consumer import sweeper
from consumer.connection import open_handler
from consumer.handlers.outcome import Batch, Outcome
from db import queries
from tests.database import Database
from tests.engine import (
    REMATCH,
    Fleet,
    Handlers,
    blockers,
    held_handler,
    recovered_of,
    waiting_handlers,
)
from tests.processes import PATIENCE_SECONDS, Daemon, eventually

AT_ONCE = "300ms"  # for a lock that is held until the test ends


@pytest.fixture
def engine(database: Database) -> Iterator[psycopg.Connection]:
    """A transaction of the matching engine, which may take time but never wait for somebody's lock."""
    with psycopg.connect(database.owner_url, application_name="engine") as connection:
        connection.execute(f"SET lock_timeout = '{AT_ONCE}'")
        connection.commit()
        yield connection


@pytest.fixture
def in_background() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


def rematch(engine: psycopg.Connection, table: str, person: Any, *lead_ids: str) -> None:
    engine.execute(REMATCH[table], (list(lead_ids), [person] * len(lead_ids)))


def mend(engine: psycopg.Connection, person: Any, lead_id: str) -> None:
    engine.execute("UPDATE canon.identity_links SET person_key = %s WHERE source_pk = %s", (person, lead_id))


def linked_leads(database: Database, count: int) -> list[str]:
    """Leads of one person, linked, recovered and matched anew to another: each has a link and an origin to move."""
    old, new = database.person(), database.person()
    leads = [database.lead(f"lead-{number:03}") for number in range(count)]
    for lead in leads:
        database.link(lead, old)
    database.recover_pending()
    for lead in leads:
        database.job(lead, new)
    return leads


def outcomes(batch: Batch) -> dict[str, Outcome]:
    return {recovery.lead_id: recovery.outcome for recovery in batch.recoveries}


class TestTheEndState:
    """Is the same however many handlers work, with no error for them or for the engine."""

    @pytest.mark.parametrize("handlers", [2, 8])
    def test_with_handlers_in_one_process(self, database: Database, handlers: int) -> None:
        fleet = Fleet(database)
        crew = Handlers(database.settings(), handlers)

        with crew.at_work():
            fleet.rematch(transactions=75)

        fleet.check(crew.recovered | fleet.settle())

    def test_with_several_daemons(self, database: Database) -> None:
        fleet = Fleet(database)
        with ExitStack() as stack:
            daemons = [stack.enter_context(Daemon(database.url, log_level="debug")) for _ in range(3)]
            for daemon in daemons:
                daemon.wait_until_ready()
            fleet.rematch(transactions=75)
            assert [daemon.stop() for daemon in daemons] == [0, 0, 0]

        recovered = [{event["lead_id"] for event in daemon.events("lead.recovered")} for daemon in daemons]
        assert all(recovered), "each had its share"
        assert not any(level in daemon.log for daemon in daemons for level in ('"warning"', '"error"'))
        fleet.check(set().union(*recovered) | fleet.settle())


class TestTheEngine:
    """Neither waits for the service's tables nor is stopped by them."""

    def test_passes_a_handler_that_holds_the_events_of_its_leads(
        self, database: Database, engine: psycopg.Connection
    ) -> None:
        leads = linked_leads(database, 3)
        person = database.person()

        with held_handler(database, *leads, statements=[queries.CLAIM]):
            rematch(engine, "job", person, *leads)
            rematch(engine, "link", person, *leads)
            engine.commit()

        database.recover_pending()
        assert {database.link_of(lead)["person_key"] for lead in leads} == {person}  # type: ignore[index]
        assert database.events() == []

    def test_passes_with_its_jobs_a_handler_that_has_written(
        self, database: Database, engine: psycopg.Connection
    ) -> None:
        leads = linked_leads(database, 3)
        person = database.person()

        with held_handler(database, *leads):
            rematch(engine, "job", person, *reversed(leads))
            engine.commit()
            assert sorted(database.recover(*leads).busy) == leads

        assert set(database.recover_pending()) == set(leads)
        assert {database.link_of(lead)["person_key"] for lead in leads} == {person}  # type: ignore[index]

    def test_passes_itself_in_crossed_order(self, database: Database, engine: psycopg.Connection) -> None:
        first, second = linked_leads(database, 2)
        person = database.person()

        with (
            held_handler(database, first, second, statements=[queries.CLAIM]),
            psycopg.connect(database.owner_url) as other,
        ):
            other.execute(f"SET lock_timeout = '{AT_ONCE}'")
            rematch(engine, "link", person, first)
            rematch(other, "link", person, second)
            rematch(engine, "job", person, second)
            rematch(other, "job", person, first)
            engine.commit()
            other.commit()

        database.recover_pending()
        assert database.link_of(first)["person_key"] == database.link_of(second)["person_key"] == person  # type: ignore[index]

    @pytest.mark.parametrize("ending", ["commit", "rollback"])
    def test_waits_for_a_link_that_a_handler_has_written_and_only_until_that_ends(
        self, database: Database, engine: psycopg.Connection, in_background: ThreadPoolExecutor, ending: str
    ) -> None:
        first, second = linked_leads(database, 2)
        elsewhere = database.lead()
        person = database.person()
        engine.execute("SET lock_timeout = '20s'")

        with held_handler(database, first, second) as handler:
            rematch(engine, "link", person, elsewhere)
            waiting = in_background.submit(mend, engine, person, second)
            eventually(lambda: blockers(database, engine) == [handler.info.backend_pid])
            (lock,) = database.run(
                "SELECT locktype, relation::regclass::text FROM pg_locks WHERE pid = %s AND NOT granted",
                engine.info.backend_pid,
            )
            assert lock == {"locktype": "transactionid", "relation": None}
            assert held_relations(database, engine, "tuple") == ["canon.identity_links"]
            getattr(handler, ending)()
            waiting.result(timeout=10)
        engine.commit()

        database.recover_pending()
        database.sweep()
        assert database.link_of(second)["person_key"] == person  # type: ignore[index]
        assert database.audit_of(first) and database.events() == []

    def test_is_never_the_victim_of_a_deadlock(
        self, database: Database, engine: psycopg.Connection, in_background: ThreadPoolExecutor
    ) -> None:
        """The handler gives up on a row long before the server looks for a deadlock."""
        first, second = linked_leads(database, 2)
        person = database.person()
        engine.execute("SET lock_timeout = '20s'")
        hold_at_first_link(database)
        rematch(engine, "link", person, second)

        handler = in_background.submit(database.recover, first, second)
        eventually(lambda: waits_for_advisory_lock(database))
        waiting = in_background.submit(rematch, engine, "link", person, first)
        eventually(lambda: blockers(database, engine))
        database.run("SELECT pg_advisory_unlock(1)")
        waiting.result(timeout=10)
        engine.commit()

        handler.result(timeout=10)
        database.run("DROP TRIGGER hold ON canon.identity_links")
        database.recover_pending()
        assert {database.link_of(lead)["person_key"] for lead in (first, second)} == {person}  # type: ignore[index]
        assert database.events() == []


def held_relations(database: Database, connection: psycopg.Connection, locktype: str) -> list[str]:
    rows = database.run(
        "SELECT relation::regclass::text FROM pg_locks WHERE pid = %s AND granted AND locktype = %s",
        connection.info.backend_pid,
        locktype,
    )
    return [row["relation"] for row in rows]


def hold_at_first_link(database: Database) -> None:
    """Hold whoever of the service updates the first link, until our advisory lock is released."""
    database.run("""
        CREATE FUNCTION public.hold() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF starts_with(current_setting('application_name'), 'cabinet-recovery') THEN
                PERFORM set_config('lock_timeout', '10s', true);
                PERFORM pg_advisory_xact_lock(1);
                PERFORM set_config('lock_timeout', '100ms', true);
            END IF;
            RETURN new;
        END $$
    """)
    database.run(
        "CREATE TRIGGER hold BEFORE UPDATE ON canon.identity_links FOR EACH ROW "
        "WHEN (new.source_pk = 'lead-000') EXECUTE FUNCTION public.hold()"
    )
    database.run("SELECT pg_advisory_lock(1)")


def waits_for_advisory_lock(database: Database) -> bool:
    return bool(
        database.run(
            "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND wait_event = 'advisory' "
            "AND datname = current_database()"
        )
    )


class TestAHandler:
    def test_leaves_to_another_what_that_one_works_and_does_the_rest(self, database: Database) -> None:
        leads = linked_leads(database, 10)
        elsewhere = [database.lead(matched_to=database.person()) for _ in range(10)]

        with held_handler(database, *leads[:5]):
            batch = database.recover(*leads[:5], *elsewhere)

        assert outcomes(batch) == dict.fromkeys(elsewhere, Outcome.RECOVERED)
        assert sorted(batch.busy) == leads[:5]
        assert set(database.recover_pending()) == set(leads[5:])
        assert database.events() == []

    def test_does_not_take_a_lead_by_its_new_event_while_another_has_the_old(self, database: Database) -> None:
        (lead,) = linked_leads(database, 1)
        newest = database.person()

        with held_handler(database, lead) as handler:
            database.job(lead, newest)
            assert database.recover(lead).busy == [lead]
            handler.rollback()

        assert outcomes(database.recover(lead)) == {lead: Outcome.RECOVERED}
        assert database.link_of(lead)["person_key"] == newest  # type: ignore[index]
        assert database.events() == []

    @pytest.mark.parametrize("held", ["link", "new link", "origin", "new origin", "person"])
    def test_does_the_batch_without_the_lead_whose_row_is_held(
        self, database: Database, engine: psycopg.Connection, held: str
    ) -> None:
        leads = [database.lead() for _ in range(50)]
        for lead in leads:
            database.job(lead, database.person())
        slow = leads[33]
        person = database.value("SELECT matched_person_key FROM ops.identity_matching_jobs WHERE source_id = %s", slow)
        hold(database, engine, held, slow, person)

        started = time.monotonic()
        batch = database.recover(*leads, lock_timeout_ms="900")
        seconds = time.monotonic() - started
        print(f"a held {held} in a batch of 50: {seconds:.2f} s")

        assert batch.busy == [slow]
        assert outcomes(batch) == dict.fromkeys([lead for lead in leads if lead != slow], Outcome.RECOVERED)
        assert seconds < PATIENCE_SECONDS, "it waits once or twice: for each lead of 50 it were 45 s"
        assert database.run("SELECT * FROM ops.cabinet_recovery_exception") == []
        engine.rollback()
        assert set(outcomes(database.recover(*leads)).values()) == {Outcome.RECOVERED}
        assert database.events() == []

    def test_does_not_overwrite_a_link_that_was_moved_while_it_waited(
        self, database: Database, engine: psycopg.Connection, in_background: ThreadPoolExecutor
    ) -> None:
        (lead,) = linked_leads(database, 1)
        mended = database.person()
        mend(engine, mended, lead)

        assert outlasted(database, engine, in_background, lead) == Batch(busy=[lead])

        assert database.events() == [(lead, "matching_job"), (lead, "identity_link")]
        assert outcomes(database.recover(lead)) == {lead: Outcome.RECOVERED}
        assert database.link_of(lead)["person_key"] == mended  # type: ignore[index]

    def test_does_not_overwrite_a_link_that_was_made_while_it_waited(
        self, database: Database, engine: psycopg.Connection, in_background: ThreadPoolExecutor
    ) -> None:
        lead, person = database.lead(matched_to=database.person()), database.person()
        rematch(engine, "link", person, lead)

        assert outlasted(database, engine, in_background, lead) == Batch(busy=[lead])

        assert database.events() == [(lead, "matching_job"), (lead, "identity_link")]
        assert outcomes(database.recover(lead)) == {lead: Outcome.RECOVERED}
        assert database.link_of(lead)["person_key"] == person  # type: ignore[index]

    @pytest.mark.parametrize("before", [None, "migration"])
    def test_does_not_overwrite_an_origin_that_was_decided_by_hand_while_it_waited(
        self,
        database: Database,
        engine: psycopg.Connection,
        in_background: ThreadPoolExecutor,
        before: str | None,
    ) -> None:
        person = database.person()
        if before:
            database.origin(person, tag=before)
        lead = database.lead(matched_to=person)
        engine.execute(
            "INSERT INTO canon.identity_origin (person_key, origin_tag, origin_source_id, origin_confidence, "
            "origin_created_at, decided_by) VALUES (%s, 'scout_registration', 'scout', 80, now(), 'manual') "
            "ON CONFLICT (person_key) DO UPDATE SET decided_by = 'manual'",
            (person,),
        )

        assert outlasted(database, engine, in_background, lead) == Batch(busy=[lead])

        assert database.events() == [(lead, "matching_job")]
        assert database.audit_of(lead) is None
        assert outcomes(database.recover(lead)) == {lead: Outcome.ORIGIN_MANUAL}
        origin = database.origin_of(person)
        assert origin and (origin["decided_by"], origin["origin_tag"]) == ("manual", before or "scout_registration")

    def test_killed_while_it_waits_loses_nothing(
        self, database: Database, engine: psycopg.Connection, in_background: ThreadPoolExecutor
    ) -> None:
        leads = linked_leads(database, 5)
        events = database.events()
        before = database.row_versions()
        engine.execute("UPDATE canon.identity_links SET match_score = 1 WHERE source_pk = %s", (leads[-1],))

        dying = in_background.submit(database.recover, *leads, lock_timeout_ms="900")
        (process_id,) = eventually(lambda: waiting_handlers(database))
        database.run("SELECT pg_terminate_backend(%s)", process_id)
        with pytest.raises(psycopg.OperationalError):
            dying.result(timeout=10)
        engine.rollback()

        assert database.events() == events
        assert database.row_versions() == before
        assert set(database.recover_pending()) == set(leads)
        assert database.events() == []

    def test_recovers_what_two_others_locked_crosswise(self, database: Database) -> None:
        (lead,) = linked_leads(database, 1)
        with held_handler(database, lead, statements=[queries.CLAIM]) as first:
            database.job(lead, newest := database.person())
            with held_handler(database, lead, statements=[queries.CLAIM]):
                first.rollback()
                # The second has locked the new event, though it may not work the lead; now the old one is free.
                assert database.recover(lead).busy == [lead]

        assert outcomes(database.recover(lead)) == {lead: Outcome.RECOVERED}
        assert database.link_of(lead)["person_key"] == newest  # type: ignore[index]

    def test_beside_another_in_step_with_it_is_done_after_a_few_rounds(self, database: Database) -> None:
        leads = linked_leads(database, 20)
        for _ in range(20):
            for table in ("link", "job"):
                person = database.person()
                database.run(REMATCH[table], leads, [person] * len(leads))  # type: ignore[call-overload]

        rounds, recovered = asyncio.run(recover_in_step(database, leads))

        print(f"two handlers in step: {rounds} rounds")
        assert rounds <= 10
        assert recovered | {lead for lead in leads if database.exception_of(lead)} == set(leads)
        assert {database.link_of(lead)["person_key"] for lead in leads} == {person}  # type: ignore[index]


def outlasted(database: Database, engine: psycopg.Connection, in_background: ThreadPoolExecutor, lead: str) -> Batch:
    """Have the lead recovered by a handler that has to wait for the engine, whose transaction then commits."""
    handler = in_background.submit(database.recover, lead, lock_timeout_ms="900")
    eventually(lambda: waiting_handlers(database))
    engine.commit()
    return handler.result(timeout=10)


def hold(database: Database, engine: psycopg.Connection, what: str, lead: str, person: Any) -> None:
    """Have the engine hold a row that recovery of the lead wants to write, or to refer to."""
    if what == "link":
        database.link(lead, database.person())
        database.job(lead, person, status="pending")
        database.job(lead, person)
        engine.execute("UPDATE canon.identity_links SET match_score = 1 WHERE source_pk = %s", (lead,))
    elif what == "new link":
        rematch(engine, "link", database.person(), lead)
    elif what == "origin":
        database.origin(person, tag="migration")
        engine.execute("UPDATE canon.identity_origin SET notes = '' WHERE person_key = %s", (person,))
    elif what == "new origin":
        engine.execute(
            "INSERT INTO canon.identity_origin (person_key, origin_tag, origin_source_id, origin_confidence, "
            "origin_created_at) VALUES (%s, 'migration', 'elsewhere', 80, now())",
            (person,),
        )
    else:
        engine.execute("SELECT FROM canon.identity_registry WHERE person_key = %s FOR UPDATE", (person,))


async def recover_in_step(database: Database, leads: list[str]) -> tuple[int, set[str]]:
    """Have two handlers start on the same leads at the same time, again and again until all are settled."""
    handlers = [await open_handler(database.settings(), "test") for _ in range(2)]
    recovered: set[str] = set()
    rounds = 0
    async with handlers[0].connection, handlers[1].connection:
        while database.events() and rounds <= 10:
            rounds += 1
            for batch in await asyncio.gather(*(handler.recover(leads) for handler in handlers)):
                recovered |= recovered_of(batch.recoveries)
    return rounds, recovered


class TestALookAtAllLeads:
    """Its cost grows with the table, so one consumer at a time takes it."""

    LOOK = "SELECT pg_advisory_xact_lock(7214614115)"

    def test_is_waited_for_by_a_backfill(self, database: Database, in_background: ThreadPoolExecutor) -> None:
        lead = database.lead(matched_to=database.person())
        with psycopg.connect(database.owner_url) as other:
            other.execute(self.LOOK)
            backfill = in_background.submit(database.sweep)
            eventually(
                lambda: database.run(
                    "SELECT pid FROM pg_stat_activity WHERE application_name = 'cabinet-recovery sweep' "
                    "AND datname = current_database() AND state = 'idle' AND query = 'COMMIT'"
                )
            )
            assert not backfill.done()
            assert database.audit_of(lead) is None

        assert backfill.result().as_job_result()["processed"] == 1

    def test_that_somebody_else_takes_does_not_keep_a_daemon_from_the_events(self, database: Database) -> None:
        by_event, by_state = (database.lead(matched_to=database.person()) for _ in range(2))
        database.run("DELETE FROM ops.cabinet_recovery_outbox WHERE lead_id = %s", by_state)

        with psycopg.connect(database.owner_url) as other:
            other.execute(self.LOOK)
            with Daemon(database.url, sweep_interval_seconds="1", reconcile_slice="1") as daemon:
                eventually(lambda: database.audit_of(by_event))
                assert database.audit_of(by_state) is None
                other.rollback()
                eventually(lambda: database.audit_of(by_state))
                assert daemon.stop() == 0

                assert daemon.wait_for("sweep.finished", what="everything")["recovered"] == 1

    def test_that_takes_long_does_not_keep_a_daemon_from_events_that_nobody_told_of(self, database: Database) -> None:
        database.run("UPDATE ops.cabinet_recovery_settings SET notify_mode = 'off'")
        by_state = database.lead(matched_to=database.person())
        database.run("DELETE FROM ops.cabinet_recovery_outbox")
        database.connection.execute(LONG_LOOK.encode())

        with Daemon(database.url, sweep_interval_seconds="1") as daemon:
            eventually(lambda: looks_at_all(database))
            for _ in range(2):
                by_event = database.lead(matched_to=database.person())
                eventually(lambda lead=by_event: database.audit_of(lead))
            assert database.audit_of(by_state) is None
            eventually(lambda: looks_at_all(database))  # it may be between two naps
            database.run("DELETE FROM public.held_up")
            eventually(lambda: database.audit_of(by_state))
            assert daemon.stop() == 0

    def test_that_takes_too_long_leaves_what_it_would_find_to_the_slices(
        self, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sweeper, "LOOK_TIMEOUT_SECONDS", 1)
        by_state = database.lead(matched_to=database.person())
        database.run("DELETE FROM ops.cabinet_recovery_outbox")
        database.connection.execute(LONG_LOOK.encode())

        async def sweep_until_recovered() -> None:
            settings, recovered = database.settings(), asyncio.Event()
            pace = sweeper.Pace(interval_seconds=1, degraded_interval_seconds=1, batch_size=500, slice_size=2000)
            sweeps = sweeper.Sweeper(pace, lambda: False, partial(open_handler, settings, "look"), lambda: None)
            handler = await open_handler(settings, "test")
            async with handler.connection:
                sweeping = asyncio.create_task(sweeps.use(handler, lambda: sweeps.outcomes and recovered.set()))
                await recovered.wait()
                sweeps.close()
                await sweeping

        asyncio.run(asyncio.wait_for(sweep_until_recovered(), 30))

        assert database.audit_of(by_state)


# The look at all leads, and nothing else, takes as long as the table has a row: as on a fleet of millions.
LONG_LOOK = """
CREATE TABLE public.held_up AS SELECT true AS is_held_up;
CREATE FUNCTION public.hold_up() RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    WHILE current_setting('application_name') = 'cabinet-recovery look' AND EXISTS (SELECT FROM public.held_up) LOOP
        PERFORM pg_sleep(0.05);
    END LOOP;
    RETURN true;
END $$;
ALTER VIEW ops.v_cabinet_recovery_pending RENAME TO pending_as_it_was;
CREATE VIEW ops.v_cabinet_recovery_pending AS SELECT * FROM ops.pending_as_it_was WHERE (SELECT public.hold_up());
GRANT SELECT ON ops.v_cabinet_recovery_pending TO PUBLIC;
"""


def looks_at_all(database: Database) -> bool:
    return bool(
        database.value(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
            "AND application_name = 'cabinet-recovery look' AND wait_event = 'PgSleep'"
        )
    )


class TestABackfill:
    """It has two batches in flight."""

    def test_gives_one_person_s_leads_one_origin_though_it_works_them_side_by_side(self, database: Database) -> None:
        person = database.person()
        leads = [database.lead(matched_to=person) for _ in range(12)]

        summary = database.sweep(batch_size="1")

        assert summary.outcomes == {Outcome.RECOVERED: 1, Outcome.ORIGIN_HELD: len(leads) - 1}
        assert database.events() == []

    def test_ends_with_the_error_of_the_batch_that_the_server_could_not_do(self, database: Database) -> None:
        leads = [database.lead(f"lead-{number}", matched_to=database.person()) for number in range(4)]
        database.run("""
            CREATE FUNCTION public.fill_up() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN RAISE EXCEPTION 'no space left' USING ERRCODE = 'disk_full'; END $$
        """)
        database.run(
            "CREATE TRIGGER fill_up BEFORE INSERT ON ops.cabinet_lead_recovery_audit "
            "FOR EACH ROW WHEN (new.lead_id = 'lead-1') EXECUTE FUNCTION public.fill_up()"
        )

        with pytest.raises(psycopg.errors.DiskFull):
            database.sweep(batch_size="1")

        assert "lead-1" in {lead_id for lead_id, _ in database.events()}
        database.run("DROP TRIGGER fill_up ON ops.cabinet_lead_recovery_audit")
        database.sweep()
        assert database.events() == []
        assert all(database.audit_of(lead) for lead in leads)


def test_a_server_too_slow_for_a_batch_is_given_smaller_ones(database: Database) -> None:
    """Else each batch would first take all the time that it may, in vain."""
    database.run("""
        CREATE FUNCTION public.take_time() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            PERFORM pg_sleep(0.004);
            RETURN new;
        END $$
    """)
    database.run(
        "CREATE TRIGGER take_time BEFORE INSERT ON canon.identity_origin "
        "FOR EACH ROW EXECUTE FUNCTION public.take_time()"
    )
    first, second = ([database.lead(matched_to=database.person()) for _ in range(400)] for _ in range(2))

    def given_up() -> int:
        database.run("SELECT pg_stat_force_next_flush()")
        return int(database.value("SELECT xact_rollback FROM pg_stat_database WHERE datname = current_database()"))

    async def recover() -> list[int]:
        handler = await open_handler(database.settings(), "test")
        async with handler.connection:
            counts = [given_up()]
            for leads in (first, second):
                batch = await handler.recover(leads)
                assert len(recovered_of(batch.recoveries)) == len(leads)
                await handler.connection.execute("SELECT pg_stat_force_next_flush()")
                counts.append(given_up())
            return counts

    before, after_first, after_second = asyncio.run(recover())

    assert after_first > before
    assert after_second - after_first < after_first - before
