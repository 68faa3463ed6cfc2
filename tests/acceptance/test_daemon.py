"""`consumer run` as operators meet it: a process that lives, is asked to stop, is killed, and loses its server."""

import os
import signal
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from datetime import datetime, timedelta
from itertools import pairwise

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from db.connect import Address
from db.embedded import EmbeddedServer
from db.migrate import migrate
from tests.database import Database
from tests.processes import (
    PATIENCE_SECONDS,
    Daemon,
    eventually,
    over_tcp,
    own_server,
    run_python,
    standby_of,
    started,
)
from tests.servers import TemplateDatabase
from tests.traffic import QUIET, audits, match, matched_one_by_one, slow_lead, unmatched_leads, wait_until_in_hand

MATCHING_ENGINE = """
import sys, psycopg
url, lead_id, person_key = sys.argv[1:]
with psycopg.connect(url) as connection:
    connection.execute(
        "INSERT INTO ops.identity_matching_jobs (source_type, source_id, status, matched_person_key) "
        "VALUES ('cabinet', %s, 'matched', %s)",
        (lead_id, person_key),
    )
"""


def count(database: Database, table: str) -> int:
    return int(database.value("SELECT count(*) FROM " + table))  # type: ignore[arg-type] # the names are here


class TestRecovery:
    def test_follows_a_match_that_another_process_commits(self, database: Database) -> None:
        person, lead = database.person(), database.lead()

        with Daemon(database.url, **QUIET) as daemon:
            daemon.wait_for("listener.listening")
            engine = run_python("-c", MATCHING_ENGINE, database.owner_url, lead, str(person))
            assert engine.returncode == 0, engine.stderr
            told = daemon.wait_for("lead.recovered", lead_id=lead)

        link, origin, audit = database.link_of(lead), database.origin_of(person), database.audit_of(lead)
        assert link and link["person_key"] == person
        assert origin and (origin["origin_tag"], origin["origin_source_id"]) == ("cabinet_lead", lead)
        assert audit and (audit["recovered_person_key"], audit["recovery_method"]) == (person, "matching_job")
        assert (told["link"], told["origin"]) == ("create", "create")
        assert database.events() == []

    def test_is_visible_to_others_within_milliseconds(self, database: Database) -> None:
        leads = unmatched_leads(database, "single", 200)
        seconds = []

        with Daemon(database.url, **QUIET) as daemon, closing(Database(database.owner_url)) as onlooker:
            daemon.wait_for("listener.listening")
            for lead in leads:
                match(database, [lead])
                committed = time.perf_counter()
                eventually(lambda lead=lead: onlooker.audit_of(lead))
                seconds.append(time.perf_counter() - committed)

        median, p99 = statistics.median(seconds), statistics.quantiles(seconds, n=100)[98]
        print(f"from commit to audit, {len(seconds)} single matches: {1e3 * median:.1f} ms, p99 {1e3 * p99:.1f} ms")
        assert median < 1

    def test_is_shared_by_two_daemons_and_never_done_twice(self, database: Database) -> None:
        with Daemon(database.url, **QUIET) as one, Daemon(database.url, **QUIET) as other:
            one.wait_for("listener.listening")
            other.wait_for("listener.listening")
            leads = matched_one_by_one(database, "shared", 300)
            eventually(lambda: count(database, "ops.cabinet_lead_recovery_audit") == len(leads))
            assert (one.stop(), other.stop()) == (0, 0)

            shares = [[told["lead_id"] for told in daemon.events("lead.recovered")] for daemon in (one, other)]

        print("shares of two daemons:", *map(len, shares))
        assert sorted(shares[0] + shares[1]) == sorted(leads)
        assert all(first == last for first, last in audits(database).values())

    def test_survives_more_notifications_than_the_inbox_holds(self, database: Database) -> None:
        leads = unmatched_leads(database, "flood", 1 + 150)

        with Daemon(database.url, **QUIET, inbox_size="10", batch_size="5") as daemon:
            daemon.wait_for("listener.listening")
            match(database, leads[1:])
            match(database, leads[:1])
            daemon.wait_for_leads(leads)
            assert daemon.stop() == 0

            assert daemon.wait_for("service.stopped")["overflowed"] > 0

    def test_of_what_stands_before_the_start_needs_no_event(self, database: Database) -> None:
        database.run("UPDATE ops.cabinet_recovery_settings SET notify_mode = 'off'")
        leads = matched_one_by_one(database, "before", 20)
        database.run("DELETE FROM ops.cabinet_recovery_outbox WHERE lead_id < 'before-2'")

        with Daemon(database.url, **QUIET) as daemon:
            daemon.wait_for_leads(leads)


class TestBeingAskedToStop:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_when_idle_ends_with_0_at_once(self, database: Database, number: signal.Signals) -> None:
        with Daemon(database.url) as daemon:
            daemon.wait_for("listener.listening")
            asked = time.monotonic()

            assert daemon.stop(number) == 0

            assert time.monotonic() - asked < 10
            assert daemon.wait_for("service.stopped")["notifications"] == 0
            assert daemon.plain_lines == []

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_under_load_finishes_the_batch_in_hand_first(self, database: Database, number: signal.Signals) -> None:
        slow = slow_lead(database)

        with Daemon(database.url, **QUIET, batch_size="20") as daemon:
            daemon.wait_for("listener.listening")
            match(database, [slow])
            wait_until_in_hand(database)
            others = matched_one_by_one(database, "single", 100)
            bulk = unmatched_leads(database, "bulk", 1000)
            match(database, bulk)

            assert daemon.stop(number) == 0

            assert daemon.plain_lines == []
            assert daemon.events("service.stopped")
        done = audits(database)
        assert slow in done
        assert len(done) + count(database, "ops.v_cabinet_recovery_pending") == len([slow, *others, *bulk])
        assert len(done) == count(database, "canon.identity_origin") == count(database, "canon.identity_links")

    def test_gives_up_on_a_batch_that_outlasts_the_grace(self, database: Database) -> None:
        slow = slow_lead(database, seconds=60)

        with Daemon(database.url, **QUIET, shutdown_grace_seconds="1") as daemon:
            daemon.wait_for("listener.listening")
            match(database, [slow])
            wait_until_in_hand(database)

            assert daemon.stop() == 143

            (line,) = daemon.plain_lines
            assert line == "consumer: the batch in hand took longer than 1 s; its events stand"
        assert database.audit_of(slow) is None
        assert database.events() == [(slow, "matching_job")]

    @pytest.mark.slow
    def test_while_the_server_hangs_ends_soon_after_the_grace(self, server: EmbeddedServer, url: str) -> None:
        with closing(Database(url)) as database, Daemon(url, **QUIET, shutdown_grace_seconds="1") as daemon:
            slow = slow_lead(database, seconds=60)
            daemon.wait_for("listener.listening")
            match(database, [slow])
            wait_until_in_hand(database)
            (backend,) = database.run("SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep'")
            frozen = [server.pid, backend["pid"]]
            for process in frozen:
                os.kill(process, signal.SIGSTOP)
            try:
                asked = time.monotonic()
                assert daemon.stop() == 143
                assert time.monotonic() - asked < 5
            finally:
                for process in frozen:
                    os.kill(process, signal.SIGCONT)

            assert len(daemon.plain_lines) == 1

    @pytest.mark.parametrize(("command", "status", "looks_and_idle"), [("run", 0, (2, 3)), ("sweep", 143, (1, 1))])
    def test_while_the_server_hangs_in_a_look_ends_at_once(
        self, server: EmbeddedServer, url: str, command: str, status: int, looks_and_idle: tuple[int, int]
    ) -> None:
        with closing(Database(url)) as database:
            database.run("ALTER VIEW ops.v_cabinet_recovery_pending RENAME TO pending_as_it_was")
            database.run("CREATE VIEW ops.v_cabinet_recovery_pending AS "
                         "SELECT * FROM ops.pending_as_it_was WHERE (SELECT pg_sleep(60) IS NOT NULL)")  # fmt: skip
            looking = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()"
            idle = ("SELECT pid FROM pg_stat_activity WHERE state = 'idle' AND datname = current_database() "
                    "AND starts_with(application_name, 'cabinet-recovery ')")  # fmt: skip
            with started(command, url=url) as process, ExitStack() as last:
                last.callback(process.kill)
                # Of all its sessions: psycopg would ask the server to cancel one that is still being set up.
                eventually(lambda: (len(database.run(looking)), len(database.run(idle))) == looks_and_idle)
                for backend in (server.pid, *(row["pid"] for row in database.run(looking))):
                    last.callback(os.kill, backend, signal.SIGCONT)
                    os.kill(backend, signal.SIGSTOP)
                asked = time.monotonic()
                process.send_signal(signal.SIGTERM)

                assert process.wait(PATIENCE_SECONDS) == status
                assert time.monotonic() - asked < 4

    def test_while_the_server_is_away_ends_with_0(self) -> None:
        with Daemon("host=127.0.0.1 port=1 user=nobody dbname=nothing") as daemon:
            daemon.wait_for("database.lost")

            assert daemon.stop() == 0

            assert daemon.plain_lines == []


def test_a_kill_loses_nothing_and_doubles_nothing(database: Database) -> None:
    """What is matched while nobody runs is recovered at the next start, and the first recovery never moves."""
    slow = slow_lead(database)
    with Daemon(database.url, **QUIET, batch_size="20") as killed:
        killed.wait_for("listener.listening")
        early = matched_one_by_one(database, "early", 100)
        killed.wait_for_leads(early)
        before = audits(database)
        match(database, [slow])
        wait_until_in_hand(database)
        killed.kill()
    late = unmatched_leads(database, "late", 500)
    for start in range(0, len(late), 100):
        match(database, late[start : start + 100])
    rematched = early[:20]
    for lead in rematched:
        database.job(lead, database.person())

    with Daemon(database.url, **QUIET) as daemon:
        daemon.wait_for_leads([*late, *rematched])
        eventually(lambda: slow in audits(database))
        assert daemon.stop() == 0
        told = Counter(one["lead_id"] for one in daemon.events("lead.recovered"))

    after = audits(database)
    assert set(after) == {*early, *late, slow}
    assert set(told) - {slow} == {*late, *rematched}
    assert set(told.values()) == {1}
    assert {lead: after[lead][0] for lead in early} == {lead: first for lead, (first, _) in before.items()}
    assert {lead for lead, (first, last) in after.items() if first != last} == set(rematched)
    assert database.events() == []


class TestNotifications:
    """Anyone who can connect can notify: a payload is a hint, and '' asks for a sweep."""

    RUBBISH = (
        "no-such-lead",
        "x" * 7999,
        "'; DROP TABLE canon.identity_links; --",
        "\x01\x02\x1b[31m\r\n\t\x7f",
        "%s %(lead_ids)s {} \\ \\x00",
        "ñandú-車-\N{PILE OF POO}",
    )

    def test_with_rubbish_change_nothing_and_are_counted(self, database: Database) -> None:
        settled = database.lead(matched_to=database.person())
        database.lead()
        database.sweep()
        before = database.row_versions()

        with Daemon(database.url, **QUIET) as daemon:
            daemon.wait_for("listener.listening")
            for payload in (*self.RUBBISH, settled):
                database.run("SELECT pg_notify('cabinet_recovery', %s)", payload)
            rubbish = len(self.RUBBISH) + 1
            eventually(lambda: sum(told["count"] for told in daemon.events("hints.unmatched")) == rubbish)
            assert daemon.stop() == 0

            counts = daemon.wait_for("service.stopped")

        assert (counts["notifications"], counts["unmatched"]) == (rubbish, rubbish)
        assert database.row_versions() == before
        assert daemon.plain_lines == []

    def test_that_are_empty_ask_for_a_sweep_and_never_for_two_a_second(self, database: Database) -> None:
        database.run("UPDATE ops.cabinet_recovery_settings SET notify_mode = 'off'")

        with Daemon(database.url, **QUIET) as daemon:
            daemon.wait_for("service.ready")  # it has looked at all leads
            for _ in range(3):
                lead = database.lead(matched_to=database.person())
                for _ in range(20):
                    database.run("NOTIFY cabinet_recovery")
                daemon.wait_for("lead.recovered", lead_id=lead)
            # Whatever was sent before this one was heard before it; the leads are recovered as soon as the first was.
            database.run("NOTIFY cabinet_recovery, 'nobody'")
            daemon.wait_for("hints.unmatched")
            assert daemon.stop() == 0

            swept = [datetime.fromisoformat(told["timestamp"]) for told in daemon.events("sweep.finished")]
            assert daemon.wait_for("service.stopped")["notifications"] == 60 + 1
        pauses = [later - earlier for earlier, later in pairwise(swept)]
        assert len(swept) == 3
        assert min(pauses) > timedelta(seconds=0.9)


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedServer]:
    with own_server() as server:
        yield server


@pytest.fixture(scope="module")
def migrated(server: EmbeddedServer) -> Iterator[TemplateDatabase]:
    with TemplateDatabase(server.url(), prepare=lambda url: migrate(Address.parse(url))) as template:
        yield template
        server.start()


@pytest.fixture
def url(server: EmbeddedServer, migrated: TemplateDatabase) -> Iterator[str]:
    conninfo = migrated.fresh()
    yield conninfo
    server.start()
    migrated.drop(conninfo)


class TestTheServer:
    """These stop and start a server of their own."""

    def test_that_is_away_at_the_start_is_waited_for(self, server: EmbeddedServer, url: str) -> None:
        with closing(Database(url)) as database:
            before = database.lead(matched_to=database.person())
        server.stop()

        with Daemon(url, **QUIET) as daemon:
            daemon.wait_for("database.lost")
            server.start()
            daemon.wait_for("listener.listening")
            daemon.wait_for_leads([before])
            with closing(Database(url)) as database:
                daemon.wait_for_leads(matched_one_by_one(database, "after", 1))
            daemon.wait_for("database.regained")  # by all roles
            assert daemon.stop() == 0

            assert len(daemon.events("database.lost")) == 1
            assert len(daemon.events("database.regained")) == 1
            assert daemon.plain_lines == []

    @pytest.mark.parametrize("how", ["stop", "kill"])
    def test_that_goes_and_comes_back_costs_no_match(self, server: EmbeddedServer, url: str, how: str) -> None:
        with Daemon(url, **QUIET) as daemon:
            daemon.wait_for("listener.listening")
            with closing(Database(url)) as database:
                daemon.wait_for_leads(matched_one_by_one(database, "before", 5))
            getattr(server, how)()
            daemon.wait_for("database.lost")
            server.start()
            with closing(Database(url)) as database:
                meanwhile = matched_one_by_one(database, "meanwhile", 5)
                daemon.wait_for("listener.listening", count=2)
                daemon.wait_for_leads(meanwhile)
                daemon.wait_for_leads(matched_one_by_one(database, "after", 5))
                assert len(audits(database)) == 15
                assert database.events() == []
            assert daemon.stop() == 0

            assert daemon.wait_for("service.stopped")["notifications"] >= 10, "it listens again"
            assert len(daemon.events("database.lost")) == 1, "one outage is told of once"
            assert daemon.plain_lines == []

    def test_that_refuses_the_password_ends_it_with_4(self, server: EmbeddedServer, url: str) -> None:
        with Daemon(over_tcp(server, url, password="not-the-word")) as daemon:
            assert daemon.end() == 4

            (line,) = daemon.plain_lines
            assert "password authentication failed" in line
            assert "not-the-word" not in daemon.log

    def test_that_refuses_the_database_ends_it_with_4(self, server: EmbeddedServer, url: str) -> None:
        with Daemon(over_tcp(server, url, dbname="nowhere")) as daemon:
            assert daemon.end() == 4

            (line,) = daemon.plain_lines
            assert 'database "nowhere" does not exist' in line

    @pytest.mark.parametrize("role", ["listener", "worker", "sweeper"])
    def test_that_ends_a_connection_of_ours_gets_another(self, url: str, role: str) -> None:
        with Daemon(url, **QUIET) as daemon, closing(Database(url)) as database:
            daemon.wait_for("listener.listening")
            daemon.wait_for_leads(matched_one_by_one(database, "before", 2))
            # Each role connects by itself: that there are recovered leads says nothing of this one.
            ended = eventually(
                lambda: database.run(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE application_name = %s AND datname = current_database()",
                    f"cabinet-recovery {role}",
                )
            )
            assert len(ended) == 1

            daemon.wait_for_leads(matched_one_by_one(database, "after", 5))

            assert len(daemon.events("database.lost")) <= 1
            assert daemon.stop() == 0


class TestAStandby:
    def test_is_waited_for_until_it_is_promoted(self, server: EmbeddedServer, url: str) -> None:
        with closing(Database(url)) as database:
            lead = database.lead(matched_to=database.person())
        with standby_of(server) as standby, Daemon(make_conninfo(url, **socket_of(standby)), **QUIET) as daemon:
            daemon.wait_for("database.lost")

            with psycopg.connect(standby.url(), autocommit=True) as connection:
                connection.execute("SELECT pg_promote()")

            daemon.wait_for_leads([lead])
            assert len(daemon.events("database.lost")) == 1
            assert daemon.stop() == 0


class TestADatabaseThatTakesNoWrites:
    def test_is_waited_for_until_it_takes_them_again(self, database: Database) -> None:
        name = database.connection.info.dbname
        lead = database.lead(matched_to=database.person())
        database.connection.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        with Daemon(database.url, **QUIET) as daemon:
            lost = daemon.wait_for("database.lost")

            database.connection.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")

            daemon.wait_for_leads([lead])
            assert daemon.stop() == 0
        assert "default_transaction_read_only is on" in lost["reason"]


def socket_of(server: EmbeddedServer) -> dict[str, str]:
    parts = conninfo_to_dict(server.url())
    return {"host": str(parts["host"]), "port": str(parts["port"])}


class TestWhatCannotBeMended:
    def test_a_database_without_our_schema_ends_it_with_3(self, server_url: str) -> None:
        with TemplateDatabase(server_url, prepare=lambda _: None) as empty:
            url = empty.fresh()
            with Daemon(url) as daemon:
                assert daemon.end() == 3

                assert daemon.plain_lines == ["consumer: the service's schema is missing: run `consumer migrate`"]
            empty.drop(url)

    def test_an_outdated_schema_ends_it_with_3(self, database: Database) -> None:
        database.run("UPDATE ops.cabinet_recovery_alembic_version SET version_num = '0001'")

        with Daemon(database.url) as daemon:
            assert daemon.end() == 3

            (line,) = daemon.plain_lines
            assert "outdated" in line
            assert "run `consumer migrate`" in line

    def test_no_address_ends_it_with_2(self) -> None:
        with Daemon(None) as daemon:
            assert daemon.end() == 2

            (line,) = daemon.log.splitlines()
            assert line.startswith("consumer: DATABASE_URL is not set")

    @pytest.mark.parametrize(
        "option", ["connect_timeout=soon", "sslmode=maybe", "target_session_attrs=any-will-do", "port=door"]
    )
    def test_an_address_that_no_server_can_ever_answer_ends_it_with_2(self, database: Database, option: str) -> None:
        with Daemon(f"{database.url} {option}") as daemon:
            assert daemon.end(10) == 2

            assert len(daemon.plain_lines) == 1


def test_the_log_names_no_person_and_no_password(database: Database) -> None:
    person = database.person()
    database.run("UPDATE canon.identity_registry SET primary_phone = '+51999888777', primary_full_name = 'Rosa Quispe'")
    database.run("ALTER TABLE canon.identity_origin ADD CHECK (origin_source_id <> 'bad')")
    bad, good = database.lead("bad", matched_to=person), database.lead(matched_to=database.person())

    with Daemon(f"{database.url} password=Geheim77", **QUIET, max_attempts="1") as daemon:
        daemon.wait_for_leads([bad], outcome="parked")
        daemon.wait_for_leads([good])
        assert daemon.stop() == 0

        for secret in ("+51999888777", "Rosa", "Quispe", "Geheim77"):
            assert secret not in daemon.log
