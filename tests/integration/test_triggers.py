"""A match becomes an event and a notification, at no risk and little cost to whoever matched."""

import secrets
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from typing import LiteralString

import psycopg
import pytest
import sqlalchemy as sa
from psycopg import sql

from db import queries, trigger_switch
from db.connect import Address
from db.embedded import DISPOSABLE_SETTINGS, EmbeddedServer, ServerUnavailable
from db.engine import open_engine
from db.trigger_switch import TRIGGERS, TableBusy, read_states, switch
from tests.conftest import migrate
from tests.database import Database
from tests.engine import held_handler
from tests.processes import eventually

NAMES = [name for names in TRIGGERS.values() for name in names]
INSERT_JOBS = (
    "INSERT INTO ops.identity_matching_jobs (source_type, source_id, status, matched_person_key) "
    "SELECT 'cabinet', lead_id, 'matched', %s FROM unnest(%s::text[]) AS lead_id"
)
INSERT_LINKS = (
    "INSERT INTO canon.identity_links "
    "(person_key, source_table, source_pk, snapshot_date, match_rule, match_score, confidence_level) "
    "SELECT %s, 'module_ct_cabinet_leads', lead_id, now(), 'phone_exact', 90, 'HIGH' FROM unnest(%s::text[]) AS lead_id"
)


class Wire:
    """What arrives of the engine's work: events in the outbox, and payloads on a connection that listens."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._last_event = 0
        self._listener = psycopg.connect(database.owner_url, autocommit=True)
        self._listener.execute("LISTEN cabinet_recovery")

    def close(self) -> None:
        self._listener.close()

    def events(self) -> list[tuple[str, str]]:
        """Return (lead_id, source) of the events since the last call."""
        rows = self._database.run(
            "SELECT * FROM ops.cabinet_recovery_outbox WHERE event_id > %s ORDER BY event_id", self._last_event
        )
        self._last_event = max((row["event_id"] for row in rows), default=self._last_event)
        return [(row["lead_id"], row["source"]) for row in rows]

    def payloads(self) -> list[str]:
        """Return the payloads since the last call. Notifications keep their order: ours comes after all of them."""
        ours = secrets.token_hex()
        self._database.run("SELECT pg_notify('cabinet_recovery', %s)", ours)
        found = []
        with closing(self._listener.notifies(timeout=30)) as notifications:
            for notification in notifications:
                if notification.payload == ours:
                    return found
                found.append(notification.payload)
        raise AssertionError("our own notification did not arrive")

    def news(self) -> tuple[list[tuple[str, str]], list[str]]:
        return self.events(), self.payloads()


def adapt(database: Database, lease: LiteralString) -> None:
    """As a keeper leaves the settings in mode 'adaptive'."""
    database.run("UPDATE ops.cabinet_recovery_settings SET notify_mode = 'adaptive', awake_until = " + lease)


SILENCE: tuple[list[tuple[str, str]], list[str]] = ([], [])


@pytest.fixture
def wire(database: Database) -> Iterator[Wire]:
    found = Wire(database)
    yield found
    found.close()


@pytest.fixture
def engine(database: Database) -> Iterator[psycopg.Connection]:
    """The matching engine's session: transactions begin by themselves and end with commit() or rollback()."""
    with psycopg.connect(database.owner_url, application_name="engine") as connection:
        yield connection


def match(engine: psycopg.Connection, person: uuid.UUID, *lead_ids: str) -> None:
    engine.execute(INSERT_JOBS, (person, list(lead_ids)))


class TestALink:
    def test_that_is_new_is_told(self, database: Database, wire: Wire) -> None:
        database.link("one", database.person())

        assert wire.news() == ([("one", "identity_link")], ["one"])

    def test_that_names_another_person_is_told(self, database: Database, wire: Wire) -> None:
        database.link("one", database.person())
        wire.news()

        database.run("UPDATE canon.identity_links SET person_key = %s", database.person())

        assert wire.news() == ([("one", "identity_link")], ["one"])

    def test_that_is_written_over_is_told(self, database: Database, wire: Wire) -> None:
        database.link("one", database.person())
        wire.news()

        database.link("one", database.person())

        assert wire.news() == ([("one", "identity_link")], ["one"])

    def test_that_is_written_again_as_it_was_is_not_told(self, database: Database, wire: Wire) -> None:
        person = database.person()
        database.link("one", person)
        wire.news()

        database.link("one", person, rule="another", score=1)
        database.run("UPDATE canon.identity_links SET evidence = '{}', linked_at = now()")

        assert wire.news() == SILENCE

    def test_of_another_source_is_not_told(self, database: Database, wire: Wire) -> None:
        person, other = database.person(), database.person()
        database.run(
            "INSERT INTO canon.identity_links (person_key, source_table, source_pk, snapshot_date, match_rule, "
            "match_score, confidence_level) VALUES (%s, 'drivers', 'one', now(), 'phone_exact', 90, 'HIGH')",
            person,
        )
        database.run("UPDATE canon.identity_links SET person_key = %s", other)

        assert wire.news() == SILENCE

    def test_that_becomes_a_cabinet_lead_s_is_told(self, database: Database, wire: Wire) -> None:
        database.link("one", database.person())
        database.run("UPDATE canon.identity_links SET source_table = 'drivers'")
        wire.news()

        database.run("UPDATE canon.identity_links SET source_table = 'module_ct_cabinet_leads', source_pk = 'two'")

        assert wire.news() == ([("two", "identity_link")], ["two"])


class TestAJob:
    def test_that_is_born_matched_is_told(self, database: Database, wire: Wire) -> None:
        database.job("one", database.person())

        assert wire.news() == ([("one", "matching_job")], ["one"])

    @pytest.mark.parametrize("before", ["pending", "failed", "matched", "matched to another", "matched to nobody"])
    def test_that_becomes_matched_is_told(self, database: Database, wire: Wire, before: str) -> None:
        person = database.person()
        earlier = {"matched": None, "matched to another": database.person()}.get(before)
        database.job("one", earlier, status=before.split(maxsplit=1)[0])
        wire.news()

        database.run("UPDATE ops.identity_matching_jobs SET status = 'matched', matched_person_key = %s", person)

        assert wire.news() == ([("one", "matching_job")], ["one"])

    def test_that_is_matched_again_after_another_look_is_told(self, database: Database, wire: Wire) -> None:
        person = database.person()
        database.job("one", person)
        database.job("one", person, status="pending")
        wire.news()

        database.job("one", person)

        assert wire.news() == ([("one", "matching_job")], ["one"])

    def test_that_is_written_over_is_told(self, database: Database, wire: Wire) -> None:
        database.job("one", database.person())
        wire.news()

        database.job("one", database.person())

        assert wire.news() == ([("one", "matching_job")], ["one"])

    def test_that_is_copied_in_is_told(self, database: Database, wire: Wire) -> None:
        person = database.person()
        copy = "COPY ops.identity_matching_jobs (source_type, source_id, status, matched_person_key) FROM STDIN"
        with database.connection.cursor() as cursor, cursor.copy(copy) as rows:
            rows.write_row(("cabinet", "one", "matched", person))
            rows.write_row(("cabinet", "two", "pending", person))

        assert wire.news() == ([("one", "matching_job")], ["one"])

    @pytest.mark.parametrize(
        "update",
        [
            "attempt_count = attempt_count + 1, last_attempt_at = now()",
            "updated_at = now()",
            "matched_person_key = matched_person_key",
            "status = 'pending'",
            "status = 'failed', fail_reason = 'no phone'",
            "matched_person_key = NULL",
            "source_type = 'scouting'",
        ],
    )
    def test_that_changes_otherwise_is_not_told(self, database: Database, wire: Wire, update: str) -> None:
        database.job("one", database.person())
        wire.news()

        database.connection.execute(f"UPDATE ops.identity_matching_jobs SET {update}")

        assert wire.news() == SILENCE

    @pytest.mark.parametrize(
        ("source_type", "status", "matched"),
        [
            ("scouting", "matched", True),
            ("cabinet", "pending", True),
            ("cabinet", "failed", True),
            ("cabinet", "matched", False),
        ],
    )
    def test_that_is_no_match_of_a_cabinet_lead_is_not_told(
        self, database: Database, wire: Wire, source_type: str, status: str, matched: bool  # noqa: FBT001
    ) -> None:  # fmt: skip
        database.run(
            "INSERT INTO ops.identity_matching_jobs (source_type, source_id, status, matched_person_key) "
            "VALUES (%s, 'one', %s, %s)",
            source_type,
            status,
            database.person() if matched else None,
        )

        assert wire.news() == SILENCE


class TestAStatement:
    def test_over_many_rows_tells_of_those_that_changed(self, database: Database, wire: Wire) -> None:
        person, other = database.person(), database.person()
        for lead, status, to in (("a", "pending", None), ("b", "matched", other), ("c", "matched", person)):
            database.job(lead, to, status)
        wire.news()

        database.run("UPDATE ops.identity_matching_jobs SET status = 'matched', matched_person_key = %s", person)

        assert sorted(wire.events()) == [("a", "matching_job"), ("b", "matching_job")]
        assert sorted(wire.payloads()) == ["a", "b"]

    def test_that_inserts_some_and_updates_others_tells_of_both(self, database: Database, wire: Wire) -> None:
        person = database.person()
        database.job("old", None, status="pending")
        database.job("same", person)
        wire.news()

        database.run(
            INSERT_JOBS + " ON CONFLICT (source_type, source_id) DO UPDATE "
            "SET status = 'matched', matched_person_key = EXCLUDED.matched_person_key",
            person,
            ["old", "same", "new"],
        )

        assert sorted(wire.events()) == [("new", "matching_job"), ("old", "matching_job")]
        assert sorted(wire.payloads()) == ["new", "old"]

    def test_that_changes_no_row_tells_nothing(self, database: Database, wire: Wire) -> None:
        database.run("UPDATE canon.identity_links SET person_key = person_key")
        database.run("UPDATE ops.identity_matching_jobs SET status = 'matched' WHERE false")

        assert wire.news() == SILENCE

    @pytest.mark.parametrize(("count", "payloads"), [(200, 200), (201, 1)])
    def test_over_more_than_200_leads_rings_once_for_all(
        self, database: Database, wire: Wire, engine: psycopg.Connection, count: int, payloads: int
    ) -> None:
        leads = [f"lead-{number}" for number in range(count)]

        match(engine, database.person(), *leads)
        engine.commit()

        assert sorted(lead for lead, _ in wire.events()) == sorted(leads)
        heard = wire.payloads()
        assert len(heard) == payloads
        assert set(heard) == (set(leads) if payloads == count else {""})

    @pytest.mark.parametrize(
        "lead",
        ["x" * 7_999, "x" * 8_000, "é" * 4_000, "x" * 100_000],
        ids=["longest payload", "a byte more", "a byte more in characters of two", "much longer"],
    )
    def test_over_a_very_long_id_rings_without_naming_what_is_too_long(
        self, database: Database, wire: Wire, lead: str
    ) -> None:
        database.job(lead, database.person())

        assert wire.news() == ([(lead, "matching_job")], [lead if len(lead) == 7_999 else ""])

    def test_that_is_rolled_back_tells_nothing(
        self, database: Database, wire: Wire, engine: psycopg.Connection
    ) -> None:
        match(engine, database.person(), "one")
        engine.rollback()

        assert wire.news() == SILENCE

    def test_in_a_savepoint_shares_its_fate(self, database: Database, wire: Wire, engine: psycopg.Connection) -> None:
        person = database.person()
        with engine.transaction(force_rollback=True):
            match(engine, person, "undone")
        with engine.transaction():
            match(engine, person, "kept")
        engine.commit()

        assert wire.news() == ([("kept", "matching_job")], ["kept"])

    def test_in_mode_off_makes_events_in_silence(self, database: Database, wire: Wire) -> None:
        database.run("UPDATE ops.cabinet_recovery_settings SET notify_mode = 'off'")

        database.job("one", database.person())
        database.link("two", database.person())

        assert wire.news() == ([("one", "matching_job"), ("two", "identity_link")], [])

    @pytest.mark.parametrize(("mode", "payloads"), [("off", []), ("adaptive", [""] * 4)])
    def test_over_many_leads_rings_unless_in_mode_off(
        self, database: Database, wire: Wire, mode: str, payloads: list[str]
    ) -> None:
        leads = [f"lead-{number}" for number in range(201)]
        first, second = database.person(), database.person()
        adapt(database, lease="clock_timestamp() + interval '1 minute'")
        database.run("UPDATE ops.cabinet_recovery_settings SET notify_mode = %s", mode)

        database.connection.execute(INSERT_JOBS, (first, leads))
        database.connection.execute(INSERT_LINKS, (first, leads))
        database.run("UPDATE ops.identity_matching_jobs SET matched_person_key = %s", second)
        database.run("UPDATE canon.identity_links SET person_key = %s", second)

        assert wire.payloads() == payloads
        assert len(wire.events()) == 4 * len(leads)

    def test_in_mode_adaptive_rings_unless_a_keeper_is_awake(self, database: Database, wire: Wire) -> None:
        adapt(database, lease="NULL")
        database.job("nobody is awake", database.person())
        adapt(database, lease="clock_timestamp() - interval '1 ms'")
        database.job("nobody is awake any more", database.person())
        adapt(database, lease="clock_timestamp() + interval '1 minute'")
        database.job("found by the keeper", database.person())
        database.link("found as well", database.person())
        database.job("found by the keeper", database.person())
        database.link("found as well", database.person())

        assert wire.payloads() == ["nobody is awake", "nobody is awake any more"]
        assert len(wire.events()) == 6

    def test_that_is_silent_is_known_by_its_lock_until_its_end(
        self, database: Database, engine: psycopg.Connection
    ) -> None:
        adapt(database, lease="clock_timestamp() + interval '1 minute'")
        match(engine, database.person(), "silent")

        assert not database.value("SELECT pg_try_advisory_lock(7214614116)")
        engine.commit()
        assert database.value("SELECT pg_try_advisory_lock(7214614116)")

    def test_rings_without_waiting_where_the_keeper_has_fallen_asleep_meanwhile(
        self, database: Database, wire: Wire, engine: psycopg.Connection
    ) -> None:
        adapt(database, lease="clock_timestamp() + interval '1 minute'")
        person = database.person()
        engine.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        engine.execute("SELECT 1")  # its snapshot shows the lease for ever
        database.run("SELECT pg_advisory_lock(7214614116)")
        adapt(database, lease="NULL")

        match(engine, person, "heard")
        engine.commit()

        assert wire.payloads() == ["heard"]

    @pytest.mark.parametrize("statement", ["DELETE FROM {}", "TRUNCATE {}"])
    def test_that_deletes_tells_nothing(self, database: Database, wire: Wire, statement: str) -> None:
        database.link("one", database.person())
        database.job("two", database.person())
        wire.news()

        for table in TRIGGERS:
            database.connection.execute(statement.format(table))

        assert wire.news() == SILENCE


def test_nothing_is_in_the_way_that_the_server_parses_anew_for_each_statement(database: Database) -> None:
    """Such as a trigger's WHEN and a table's CHECK: they cost the engine more than the row that is written."""
    assert not database.value(
        "SELECT count(*) FROM pg_trigger WHERE starts_with(tgname, 'cabinet_recovery_') AND tgqual IS NOT NULL"
    )
    assert not database.value(
        "SELECT count(*) FROM pg_constraint WHERE conrelid = 'ops.cabinet_recovery_outbox'::regclass AND contype = 'c'"
    )


class TestOurOwnWrites:
    def test_make_no_event(self, database: Database, wire: Wire) -> None:
        person, other = database.person(), database.person()
        lead = database.lead(matched_to=person)
        wire.news()
        made = "SELECT last_value FROM ops.cabinet_recovery_outbox_event_id_seq"
        before = database.value(made)

        assert database.recover(lead).recoveries[0].link == "create"
        assert wire.news() == SILENCE
        assert database.value(made) == before
        database.job(lead, other)
        wire.news()
        assert database.recover(lead).recoveries[0].link == "move"
        assert wire.news() == SILENCE
        assert database.value(made) == before + 1

    def test_are_known_in_their_own_transaction_only(self, database: Database, wire: Wire) -> None:
        lead, person = database.lead(matched_to=database.person()), database.person()
        with held_handler(database, lead, statements=[queries.CLAIM], url=database.owner_url) as session:
            session.commit()
            wire.news()
            session.execute(INSERT_JOBS, (person, ["one"]))

        assert wire.news() == ([("one", "matching_job")], ["one"])


class TestTheEngineSSession:
    """Is not ours to trust, nor to ask anything of."""

    def test_cannot_silence_a_trigger_with_a_setting(
        self, database: Database, wire: Wire, engine: psycopg.Connection
    ) -> None:
        person = database.person()
        for number, leaked in enumerate(("", "0", "x", "3")):
            engine.execute("SELECT set_config('cabinet_recovery.own', %s, false)", (leaked,))
            match(engine, person, f"lead-{number}")
            engine.commit()

        assert [lead for lead, _ in wire.events()] == ["lead-0", "lead-1", "lead-2", "lead-3"]

    def test_cannot_silence_a_trigger_with_its_last_transaction(
        self, database: Database, wire: Wire, engine: psycopg.Connection
    ) -> None:
        person = database.person()
        engine.execute("SELECT set_config('cabinet_recovery.own', pg_current_xact_id()::text, false)")
        engine.commit()

        match(engine, person, "one")
        with engine.transaction():
            engine.execute("UPDATE ops.identity_matching_jobs SET matched_person_key = %s", (database.person(),))
        engine.commit()

        assert wire.news() == ([("one", "matching_job")] * 2, ["one"])

    def test_needs_no_right_on_anything_of_ours(self, database: Database, wire: Wire) -> None:
        person, other = database.person(), database.person()
        role = sql.Identifier(f"engine_{secrets.token_hex(6)}")
        admin = database.connection
        admin.execute(sql.SQL("CREATE ROLE {}").format(role))
        try:
            admin.execute(sql.SQL("GRANT USAGE ON SCHEMA canon TO {}").format(role))
            admin.execute(sql.SQL("GRANT SELECT, INSERT, UPDATE ON canon.identity_links TO {}").format(role))
            admin.execute(sql.SQL("GRANT USAGE ON SEQUENCE canon.identity_links_id_seq TO {}").format(role))
            admin.execute(sql.SQL("SET ROLE {}").format(role))
            database.link("one", person)
            database.link("one", other)
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                database.run("SELECT FROM ops.cabinet_recovery_outbox")
            admin.execute("RESET ROLE")
            # Its jobs stand in our schema: to get at them is all that it may.
            admin.execute(sql.SQL("GRANT USAGE ON SCHEMA ops TO {}").format(role))
            admin.execute(sql.SQL("GRANT SELECT, INSERT, UPDATE ON ops.identity_matching_jobs TO {}").format(role))
            admin.execute(sql.SQL("GRANT USAGE ON SEQUENCE ops.identity_matching_jobs_id_seq TO {}").format(role))
            admin.execute(sql.SQL("SET ROLE {}").format(role))
            database.job("two", person)
            database.job("two", other)
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                admin.execute("INSERT INTO ops.cabinet_recovery_outbox (lead_id, source) VALUES ('three', 'operator')")
        finally:
            admin.execute("RESET ROLE")
            admin.execute(sql.SQL("DROP OWNED BY {role}; DROP ROLE {role}").format(role=role))

        events, payloads = wire.news()
        assert events == [("one", "identity_link")] * 2 + [("two", "matching_job")] * 2
        assert payloads == ["one", "one", "two", "two"]

    @pytest.mark.parametrize("schema", ["hostile", "pg_temp"])
    def test_may_have_things_of_our_names_first_in_its_search_path(
        self, database: Database, wire: Wire, engine: psycopg.Connection, schema: str
    ) -> None:
        if schema == "hostile":
            engine.execute("CREATE SCHEMA hostile")
        for table in ("new_rows", "old_rows", "matched", "cabinet_recovery_outbox", "cabinet_recovery_settings"):
            engine.execute(f"CREATE TABLE {schema}.{table} AS SELECT 'hostile' AS source_id")
        for function in (
            "pg_notify(text, text) RETURNS void LANGUAGE sql AS 'SELECT'",
            "array_agg(text) RETURNS text[] LANGUAGE sql AS 'SELECT NULL::text[]'",
            "unnest(text[]) RETURNS SETOF text LANGUAGE sql AS 'SELECT NULL::text WHERE false'",
            "cardinality(text[]) RETURNS integer LANGUAGE sql AS 'SELECT 1/0'",
            "octet_length(text) RETURNS integer LANGUAGE sql AS 'SELECT 1/0'",
            "pg_notification_queue_usage() RETURNS float8 LANGUAGE sql AS 'SELECT 1::float8'",
            "current_setting(text, boolean) RETURNS text LANGUAGE sql AS 'SELECT 1/0; SELECT NULL::text'",
            "differ(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT false'",
        ):
            engine.execute(f"CREATE FUNCTION {schema}.{function}")
        engine.execute(f"CREATE OPERATOR {schema}.= (FUNCTION = {schema}.differ, LEFTARG = text, RIGHTARG = text)")
        engine.execute(f"SET search_path = {schema}, pg_catalog")

        engine.execute(
            "INSERT INTO ops.identity_matching_jobs (source_type, source_id, status, matched_person_key) "
            "VALUES ('cabinet', 'one', 'matched', %s)",
            (database.person(),),
        )
        engine.execute("UPDATE ops.identity_matching_jobs SET matched_person_key = %s", (database.person(),))
        engine.commit()

        assert wire.news() == ([("one", "matching_job")] * 2, ["one"])

    def test_may_be_as_strict_as_it_can_be(self, database: Database, wire: Wire, engine: psycopg.Connection) -> None:
        for setting in (
            "plpgsql.extra_errors = 'all'",
            "default_transaction_isolation = 'serializable'",
            "lock_timeout = '1ms'",
            "work_mem = '64kB'",
            "row_security = off",
            "standard_conforming_strings = off",
            "client_encoding = 'LATIN1'",
        ):
            engine.execute(f"SET {setting}")
        engine.commit()
        person, other = database.person(), database.person()

        match(engine, person, *(f"lead-{number}" for number in range(1_000)))
        engine.execute("UPDATE ops.identity_matching_jobs SET matched_person_key = %s", (other,))
        engine.commit()

        assert len(wire.events()) == 2_000
        assert wire.payloads() == [""]

    def test_may_be_prepared_while_a_keeper_is_awake_and_holds_the_lock_until_it_is_committed(
        self, two_phase_database: Database
    ) -> None:
        adapt(two_phase_database, lease="clock_timestamp() + interval '1 minute'")
        person = two_phase_database.person()
        with psycopg.connect(two_phase_database.owner_url) as engine:
            engine.tpc_begin(engine.xid(1, "match", "engine"))
            match(engine, person, "one")
            engine.tpc_prepare()
            assert not two_phase_database.value("SELECT pg_try_advisory_lock(7214614116)")
            engine.tpc_commit()

        assert two_phase_database.events() == [("one", "matching_job")]
        assert two_phase_database.value("SELECT pg_try_advisory_lock(7214614116)")

    def test_may_commit_in_two_phases_in_mode_off(self, two_phase_database: Database) -> None:
        two_phase_database.run("UPDATE ops.cabinet_recovery_settings SET notify_mode = 'off'")
        person = two_phase_database.person()
        with psycopg.connect(two_phase_database.owner_url) as engine:
            engine.tpc_begin(engine.xid(1, "match", "engine"))
            match(engine, person, "one")
            engine.tpc_prepare()
            assert two_phase_database.events() == []
            engine.tpc_commit()

        assert two_phase_database.events() == [("one", "matching_job")]


@pytest.fixture
def two_phase_database(database: Database) -> Iterator[Database]:
    """A database whose server allows two-phase commit, which few do."""
    if database.value("SELECT current_setting('max_prepared_transactions')::integer"):
        yield database
        return
    with ExitStack() as stack:
        settings = DISPOSABLE_SETTINGS | {"max_prepared_transactions": "5"}
        try:
            server = stack.enter_context(EmbeddedServer(None, settings=settings))
        except ServerUnavailable as reason:
            pytest.skip(str(reason))
        migrate(server.url())
        yield stack.enter_context(closing(Database(server.url())))


class TestTheSwitch:
    @pytest.fixture
    def admin(self, database: Database) -> Iterator[sa.Engine]:
        with open_engine(Address.parse(database.owner_url), "triggers") as found:
            yield found

    def test_turns_them_off_and_on(self, database: Database, wire: Wire, admin: sa.Engine) -> None:
        person = database.person()
        assert states(admin) == dict.fromkeys(NAMES, "enabled")

        switch(admin, "DISABLE")

        assert states(admin) == dict.fromkeys(NAMES, "disabled")
        database.job("one", person)
        database.link("one", person)
        database.job("one", database.person())
        database.link("one", database.person())
        assert wire.news() == SILENCE

        switch(admin, "ENABLE")

        assert states(admin) == dict.fromkeys(NAMES, "enabled")
        database.job("one", person)
        database.link("one", person)
        assert wire.news() == ([("one", "matching_job"), ("one", "identity_link")], ["one", "one"])

    def test_tells_what_is_missing(self, database: Database, admin: sa.Engine) -> None:
        database.run("DROP TRIGGER cabinet_recovery_link_updated ON canon.identity_links")

        assert states(admin) == dict.fromkeys(NAMES, "enabled") | {"cabinet_recovery_link_updated": "missing"}

    def test_waits_for_a_busy_table_in_short_turns(
        self, database: Database, admin: sa.Engine, engine: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(trigger_switch, "PAUSE_SECONDS", 0.1)
        match(engine, database.person(), "one")

        with ThreadPoolExecutor(1) as pool:
            switching = pool.submit(switch, admin, "DISABLE")
            for _ in range(2):
                eventually(lambda: waits_for_table(database))
                # Between its turns it is gone, and the engine's writes pass.
                eventually(lambda: not waits_for_table(database))
                database.job("two", database.person())
            engine.commit()
            switching.result(timeout=20)

        assert states(admin) == dict.fromkeys(NAMES, "disabled")

    def test_gives_up_on_a_table_that_stays_busy_and_can_be_repeated(
        self, database: Database, admin: sa.Engine, engine: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(trigger_switch, "PAUSE_SECONDS", 0)
        monkeypatch.setattr(trigger_switch, "LOCK_ATTEMPTS", 2)
        match(engine, database.person(), "one")

        with pytest.raises(TableBusy, match=r"ops\.identity_matching_jobs stayed locked"):
            switch(admin, "DISABLE")
        links, jobs = TRIGGERS.values()
        assert states(admin) == dict.fromkeys(links, "disabled") | dict.fromkeys(jobs, "enabled")
        engine.commit()
        switch(admin, "DISABLE")

        assert states(admin) == dict.fromkeys(NAMES, "disabled")


def states(admin: sa.Engine) -> dict[str, str]:
    return {found.name: found.state for found in read_states(admin)}


def waits_for_table(database: Database) -> bool:
    return bool(
        database.run(
            "SELECT pid FROM pg_locks WHERE NOT granted AND locktype = 'relation' AND database = "
            "(SELECT oid FROM pg_database WHERE datname = current_database())"
        )
    )
