"""Races with the engine, with hands and with ourselves, each staged once."""

import asyncio
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest

from consumer.connection import open_handler
from consumer.handlers.outcome import Batch, Recovery
from consumer.handlers.recover import Asked, Handler
from db.connect import Address
from db.engine import open_engine
from db.trigger_switch import read_states, switch
from tests.database import Database
from tests.engine import REMATCH, held_handler, waiting_handlers
from tests.processes import PATIENCE_SECONDS, eventually
from tests.traffic import wait_until_in_hand


def linked_leads(database: Database, count: int) -> list[str]:
    """Leads whose links a pending match of the engine is about to move."""
    old, new = database.person(), database.person()
    leads = [database.lead(f"lead-{number:03}") for number in range(count)]
    for lead in leads:
        database.link(lead, old)
    database.recover_pending()
    for lead in leads:
        database.job(lead, new)
    return leads


@pytest.fixture
def refusal(database: Database) -> str:
    """The host refuses every new origin, until this trigger is dropped."""
    database.run(
        "CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no'; END $$"
    )
    database.run(
        "CREATE TRIGGER refuse BEFORE INSERT ON canon.identity_origin FOR EACH ROW EXECUTE FUNCTION public.refuse()"
    )
    return "DROP TRIGGER refuse ON canon.identity_origin"


@dataclass
class BetweenFailureAndRecord(Handler):
    """A handler with something happening at its weakest moment."""

    meanwhile: Callable[[], Any] = lambda: None

    async def _record_failure(self, lead_id: str, *arguments: Any) -> Recovery:
        self.meanwhile()
        return await super()._record_failure(lead_id, *arguments)


def recover_with(database: Database, lead: str, meanwhile: Callable[[], Any], max_attempts: int = 10) -> Batch:
    async def recover() -> Batch:
        connection = (await open_handler(database.settings(), "test")).connection
        async with connection:
            handler = BetweenFailureAndRecord(connection, max_attempts=max_attempts, meanwhile=meanwhile)
            return await handler.recover([lead])

    return asyncio.run(recover())


def test_the_engine_is_no_deadlock_victim_of_a_batch_that_takes_a_second(database: Database) -> None:
    """The batch keeps a link that the engine waits for until just before the engine looks for a deadlock, and comes
    to a link of the engine's then.
    """
    first, second = linked_leads(database, 2)
    database.run("""
        CREATE FUNCTION public.slow() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            WHILE starts_with(current_setting('application_name'), 'cabinet-recovery') AND NOT EXISTS (
                SELECT FROM pg_locks INNER JOIN pg_stat_activity USING (pid)
                WHERE datname = current_database() AND clock_timestamp() - waitstart > interval '0.95 s'
            ) LOOP PERFORM pg_sleep(0.005); END LOOP;
            RETURN new;
        END $$""")
    database.run(
        "CREATE TRIGGER slow BEFORE UPDATE ON canon.identity_links FOR EACH ROW "
        "WHEN (new.source_pk = 'lead-000') EXECUTE FUNCTION public.slow()"
    )
    with ThreadPoolExecutor(1) as pool, psycopg.connect(database.owner_url) as engine:
        person = database.person()
        engine.execute(REMATCH["link"], ([second], [person]))
        handler = pool.submit(database.recover, first, second)
        wait_until_in_hand(database)

        engine.execute(REMATCH["link"], ([first], [person]))
        engine.commit()

        handler.result()


def test_a_link_mended_and_mended_back_while_the_handler_waited_stays(database: Database) -> None:
    kept, passing, matched = database.person(), database.person(), database.person()
    lead = database.lead()
    database.link(lead, kept)
    database.recover_pending()
    database.job(lead, matched)
    hand = Database(database.owner_url)
    with ThreadPoolExecutor(1) as pool:
        with hand.connection.transaction():
            hand.link(lead, passing)
            hand.link(lead, kept, rule="by_hand")
            handler = pool.submit(database.recover, lead, lock_timeout_ms="900")
            eventually(lambda: waiting_handlers(database))
        handler.result()
    hand.close()

    database.recover_pending()

    link = database.link_of(lead)
    assert link and link["person_key"] == kept


@contextmanager
def swept_with_an_older_view(database: Database, lead: str) -> Iterator[None]:
    """A sweep works the lead by its state, which it saw before the block, and writes after it."""
    other = database.lead(matched_to=database.person())
    database.run("DELETE FROM ops.cabinet_recovery_outbox")
    database.run("""
        CREATE FUNCTION public.gate() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            WHILE EXISTS (
                SELECT FROM pg_locks INNER JOIN pg_database ON database = pg_database.oid
                WHERE datname = current_database() AND locktype = 'advisory' AND objid = 4711
            )
                LOOP PERFORM pg_sleep(0.005); END LOOP;
            RETURN new;
        END $$""")
    database.connection.execute(
        "CREATE TRIGGER gate BEFORE INSERT ON canon.identity_origin FOR EACH ROW "
        f"WHEN (new.origin_source_id = '{other}') EXECUTE FUNCTION public.gate()"
    )
    with ThreadPoolExecutor(1) as pool, psycopg.connect(database.owner_url, autocommit=True) as gate:
        gate.execute("SELECT pg_advisory_lock(4711)")
        sweep = pool.submit(database.recover, other, lead, asked=Asked.BY_SWEEP)
        wait_until_in_hand(database)
        try:
            yield
        finally:
            gate.execute("SELECT pg_advisory_unlock(4711)")
        sweep.result()


def test_the_audit_of_a_newer_match_is_not_overwritten(database: Database) -> None:
    old, new, lead = database.person(), database.person(), database.lead()
    database.link(lead, old)
    with swept_with_an_older_view(database, lead):
        database.job(lead, new)
        database.recover_pending()

    database.sweep()

    audit = database.audit_of(lead)
    assert audit and audit["recovered_person_key"] == new


def test_a_newer_match_that_waits_for_its_person_is_not_forgotten(database: Database) -> None:
    database.without_foreign_keys()
    person, late, lead = database.person(), uuid.uuid4(), database.lead()
    database.link(lead, person)
    database.recover_pending()
    database.run("INSERT INTO ops.cabinet_recovery_exception (lead_id, outcome) VALUES (%s, 'origin_held')", lead)
    with swept_with_an_older_view(database, lead):
        database.job(lead, late)
        database.recover_pending()

    database.register(late)
    database.sweep()

    link = database.link_of(lead)
    assert link and link["person_key"] == late


def test_a_match_between_a_failure_and_its_record_is_not_lost(database: Database, refusal: str) -> None:
    lead = database.lead(matched_to=database.person())

    def mended_and_matched_anew() -> None:
        database.connection.execute(refusal)
        database.job(lead, database.person())

    recover_with(database, lead, mended_and_matched_anew, max_attempts=1)
    database.sweep()

    assert database.audit_of(lead)


def test_no_lock_error_reaches_the_caller_while_a_failure_is_recorded(database: Database, refusal: str) -> None:
    lead = database.lead(matched_to=database.person())
    with psycopg.connect(database.owner_url) as other:
        batch = recover_with(
            database,
            lead,
            lambda: other.execute(
                "INSERT INTO ops.cabinet_recovery_exception (lead_id, outcome) VALUES (%s, 'origin_held')", (lead,)
            ),
        )

    assert batch == Batch(busy=[lead])


def test_a_failure_that_another_handler_is_about_to_mend_is_not_recorded(database: Database, refusal: str) -> None:
    lead = database.lead(matched_to=database.person())
    with ExitStack() as recovering:

        def mended_and_in_another_s_hands() -> None:
            database.connection.execute(refusal)
            recovering.enter_context(held_handler(database, lead))

        batch = recover_with(database, lead, mended_and_in_another_s_hands)

    assert batch == Batch(busy=[lead])
    assert database.audit_of(lead)
    assert database.exception_of(lead) is None


def test_a_failure_that_another_handler_has_mended_is_looked_at_again(database: Database, refusal: str) -> None:
    lead = database.lead(matched_to=database.person())

    def mended_and_recovered() -> None:
        database.connection.execute(refusal)
        with held_handler(database, lead):
            pass

    recover_with(database, lead, mended_and_recovered)

    assert database.audit_of(lead)
    assert database.events() == [(lead, "reconcile")]


def test_an_operator_s_wish_outlives_a_lock(database: Database, refusal: str) -> None:
    person = database.person()
    lead = database.lead(matched_to=person)
    database.recover(lead, max_attempts="1")
    database.connection.execute(refusal)
    hand = Database(database.owner_url)
    with hand.connection.transaction(force_rollback=True):
        hand.origin(person, tag="migration")
        assert database.reprocess(lead)[0].outcome == "failed"
    hand.close()

    database.sweep()

    assert database.audit_of(lead)


def test_many_held_leads_do_not_stop_everything_else(database: Database) -> None:
    leads = linked_leads(database, 40)
    with psycopg.connect(database.owner_url) as engine:
        engine.execute("UPDATE canon.identity_links SET match_score = 1")
        started = time.monotonic()
        batch = database.recover(*leads, lock_timeout_ms="900")
        seconds = time.monotonic() - started
        engine.rollback()

    assert len(batch.busy) == 40
    assert seconds < PATIENCE_SECONDS, "it waits once: for each lead and its halvings it were 71 s"


def test_a_serializable_database_gives_the_engine_no_error_for_our_sake(database: Database) -> None:
    name = database.value("SELECT current_database()")
    database.connection.execute(f"ALTER DATABASE {name} SET default_transaction_isolation = serializable")
    lead, person = linked_leads(database, 1)[0], database.person()
    with psycopg.connect(database.owner_url) as engine:
        engine.execute("SELECT person_key FROM canon.identity_links WHERE source_pk = %s", (lead,)).fetchall()
        database.recover(lead)

        engine.execute(REMATCH["job"], ([lead], [person]))
        engine.commit()


def test_a_job_without_an_id_does_not_fail_the_engine(database: Database) -> None:
    database.run("ALTER TABLE ops.identity_matching_jobs ALTER COLUMN source_id DROP NOT NULL")

    database.run(
        "INSERT INTO ops.identity_matching_jobs (source_type, status, matched_person_key) "
        "VALUES ('cabinet', 'matched', %s)",
        database.person(),
    )

    assert database.events() == []


def test_a_sweep_that_moves_a_link_finds_what_that_frees(database: Database) -> None:
    person = database.person()
    holder = database.lead(matched_to=person)
    database.recover_pending()
    waiting = database.lead(matched_to=person)
    database.recover_pending()
    database.job(holder, database.person())

    database.sweep()

    assert database.audit_of(waiting)
    before = database.row_versions()
    database.sweep()
    assert database.row_versions() == before


def test_one_missing_trigger_does_not_keep_the_others_on(database: Database) -> None:
    database.run("DROP TRIGGER cabinet_recovery_link_updated ON canon.identity_links")
    with open_engine(Address.parse(database.owner_url), "triggers") as engine:
        switch(engine, "DISABLE")

        assert {one.state for one in read_states(engine)} == {"disabled", "missing"}


def test_a_cancellation_that_was_swallowed_is_heeded_by_the_next_transaction(database: Database) -> None:
    """asyncio.wait_for, on which psycopg waits, may return instead of being cancelled."""

    async def recover_after_a_swallowed_cancellation() -> None:
        handler = await open_handler(database.settings(), "test")
        task = asyncio.current_task()
        assert task
        async with handler.connection:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0)
            await handler.recover(["any"])

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(recover_after_a_swallowed_cancellation())
