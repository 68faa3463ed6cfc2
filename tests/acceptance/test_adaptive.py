"""Mode 'adaptive': while matches come fast the engine does not notify, and nothing is lost or late, whoever dies."""

import re
import secrets
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from db.embedded import runnable_binaries
from tests.database import Database
from tests.processes import Daemon, eventually

# No sweep gets in the way unless it is asked for, and each lead is told of.
QUIET = {"sweep_interval_seconds": "3600", "log_level": "debug", "proof_interval_seconds": "1"}

MATCH = """
INSERT INTO ops.identity_matching_jobs (source_type, source_id, status, matched_person_key)
SELECT 'cabinet', 'load-' || n, 'matched', lpad(to_hex(n), 32, '0')::uuid FROM nextval('public.load') AS n;
"""


@pytest.fixture
def adaptive(database: Database) -> Database:
    database.run("UPDATE ops.cabinet_recovery_settings SET notify_mode = 'adaptive'")
    return database


@contextmanager
def daemon_asleep(database: Database) -> Iterator[Daemon]:
    with Daemon(database.url, **QUIET) as daemon:
        daemon.wait_for("keeper.asleep")
        daemon.wait_until_ready()  # until it listens, nothing wakes it
        yield daemon


def wake(database: Database, daemon: Daemon) -> None:
    """Many notifications, whoever sends them, wake the keeper; it stays awake for three seconds at least."""
    known = len(daemon.events("keeper.woken"))
    database.run(
        "SELECT pg_notify('cabinet_recovery', n || %s) FROM generate_series(1, 2000) AS n", secrets.token_hex()
    )
    daemon.wait_for("keeper.woken", count=known + 1)


def lease(database: Database) -> Any:
    return database.value("SELECT awake_until FROM ops.cabinet_recovery_settings")


@contextmanager
def match_in_hand(database: Database, lead: str) -> Iterator[psycopg.Connection]:
    """A transaction of the engine that has matched the lead."""
    person = database.person()
    with psycopg.connect(database.owner_url) as engine:
        engine.execute(
            "INSERT INTO ops.identity_matching_jobs (source_type, source_id, status, matched_person_key) "
            "VALUES ('cabinet', %s, 'matched', %s)",
            (lead, person),
        )
        yield engine


def hears(listener: psycopg.Connection[Any], database: Database, lead: str) -> bool:
    """Match the lead; tell whether that was notified. Notifications keep their order: ours comes after."""
    database.job(lead, database.person())
    ours = secrets.token_hex()
    database.run("SELECT pg_notify('cabinet_recovery', %s)", ours)
    payloads = []
    with closing(listener.notifies(timeout=30)) as notifications:
        for notification in notifications:
            payloads.append(notification.payload)
            if notification.payload == ours:
                break
    return lead in payloads


def hears_awake(listener: psycopg.Connection[Any], database: Database, daemon: Daemon, lead: str) -> bool:
    """The same while the keeper is awake: where it fell asleep before the match was made, once more."""
    while True:
        wake(database, daemon)
        heard = hears(listener, database, lead)
        if database.value("SELECT awake_until > clock_timestamp() FROM ops.cabinet_recovery_settings"):
            return heard


class TestTheEngine:
    def test_notifies_while_the_keeper_sleeps_and_is_silent_while_it_is_awake(self, adaptive: Database) -> None:
        leads = [adaptive.lead() for _ in range(3)]
        with daemon_asleep(adaptive) as daemon, psycopg.connect(adaptive.url, autocommit=True) as listener:
            listener.execute("LISTEN cabinet_recovery")
            heard = [hears(listener, adaptive, leads[0])]
            heard.append(hears_awake(listener, adaptive, daemon, leads[1]))
            daemon.wait_for("lead.recovered", lead_id=leads[1])
            daemon.wait_for("keeper.asleep", count=1 + len(daemon.events("keeper.woken")))
            heard.append(hears(listener, adaptive, leads[2]))
            daemon.wait_for_leads(leads)
            assert daemon.stop() == 0
            assert daemon.plain_lines == []

        assert heard == [True, False, True]

    def test_notifies_without_a_consumer(self, adaptive: Database) -> None:
        with psycopg.connect(adaptive.url, autocommit=True) as listener:
            listener.execute("LISTEN cabinet_recovery")

            assert hears(listener, adaptive, adaptive.lead())

    def test_in_a_long_silent_transaction_keeps_the_keeper_from_sleeping_but_nobody_else_silent(
        self, adaptive: Database
    ) -> None:
        late, other = adaptive.lead(), adaptive.lead()
        with daemon_asleep(adaptive) as daemon, psycopg.connect(adaptive.url, autocommit=True) as listener:
            listener.execute("LISTEN cabinet_recovery")
            wake(adaptive, daemon)
            with match_in_hand(adaptive, late) as engine:
                eventually(
                    lambda: adaptive.value("SELECT awake_until < clock_timestamp() FROM ops.cabinet_recovery_settings")
                )
                assert hears(listener, adaptive, other)
                daemon.wait_for("lead.recovered", lead_id=other)
                assert len(daemon.events("keeper.asleep")) == 1
                engine.commit()
                daemon.wait_for("lead.recovered", lead_id=late, timeout=2)
            daemon.wait_for("keeper.asleep", count=2)


class TestAKeeper:
    def test_that_is_killed_awake_is_followed_by_another_who_finds_what_was_silent(self, adaptive: Database) -> None:
        before, after = adaptive.lead(), adaptive.lead()
        with daemon_asleep(adaptive) as keeper, Daemon(adaptive.url, **QUIET) as other:
            other.wait_for("listener.proved")
            wake(adaptive, keeper)
            with match_in_hand(adaptive, after) as engine:
                keeper.process.send_signal(signal.SIGSTOP)
                adaptive.job(before, adaptive.person())
                keeper.kill()
                other.wait_for("keeper.appointed")
                engine.commit()
            eventually(lambda: adaptive.audit_of(before) and adaptive.audit_of(after), 5)
            other.wait_for("keeper.asleep")

    @pytest.mark.slow
    def test_that_hangs_awake_is_stood_in_for_within_a_second_or_so(self, adaptive: Database) -> None:
        leads = [adaptive.lead() for _ in range(3)]
        with daemon_asleep(adaptive) as keeper, Daemon(adaptive.url, **QUIET) as other:
            other.wait_for("listener.proved")
            wake(adaptive, keeper)
            keeper.process.send_signal(signal.SIGSTOP)
            waits = []
            for lead in leads:
                adaptive.job(lead, adaptive.person())
                began = time.monotonic()
                eventually(lambda lead=lead: adaptive.audit_of(lead))
                waits.append(time.monotonic() - began)
            keeper.process.send_signal(signal.SIGCONT)
            keeper.wait_for("keeper.asleep", count=2)

            assert max(waits) < 4, waits  # a second, on a machine that has nothing else to do
            assert other.events("keeper.appointed") == []

    def test_that_loses_its_connection_awake_takes_its_post_again(self, adaptive: Database) -> None:
        lead = adaptive.lead()
        with daemon_asleep(adaptive) as daemon:
            wake(adaptive, daemon)
            adaptive.run(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND application_name LIKE '%%keeper'"
            )
            adaptive.job(lead, adaptive.person())
            daemon.wait_for("lead.recovered", lead_id=lead)
            daemon.wait_for("keeper.asleep", count=2)

    @pytest.mark.slow
    def test_comes_and_goes_with_the_mode_and_leaves_nothing_behind(self, database: Database) -> None:
        leads = [database.lead() for _ in range(3)]
        with Daemon(database.url, **QUIET) as daemon, psycopg.connect(database.url, autocommit=True) as listener:
            listener.execute("LISTEN cabinet_recovery")
            daemon.wait_for("listener.proved")
            assert daemon.events("keeper.appointed") == []
            database.run("UPDATE ops.cabinet_recovery_settings SET notify_mode = 'adaptive'")
            daemon.wait_for("keeper.asleep")
            assert not hears_awake(listener, database, daemon, leads[0])
            database.run("UPDATE ops.cabinet_recovery_settings SET notify_mode = 'on'")
            assert hears(listener, database, leads[1])
            daemon.wait_for_leads(leads[:2])
            daemon.wait_for("keeper.asleep", count=1 + len(daemon.events("keeper.woken")))
            eventually(lambda: lease(database) is None)
            assert hears(listener, database, leads[2])
            daemon.wait_for_leads(leads)

    @pytest.mark.slow
    def test_waits_for_nobody_who_changes_the_settings(self, adaptive: Database) -> None:
        lead = adaptive.lead()
        with daemon_asleep(adaptive) as daemon, psycopg.connect(adaptive.owner_url) as operator:
            wake(adaptive, daemon)
            operator.execute("UPDATE ops.cabinet_recovery_settings SET business_time_zone = 'America/Lima'")
            daemon.wait_for("keeper.asleep", count=2)
            adaptive.job(lead, adaptive.person())
            daemon.wait_for("lead.recovered", lead_id=lead)
            operator.commit()
            eventually(lambda: lease(adaptive) is None)
            assert daemon.events("database.lost") == []


@pytest.mark.slow
def test_under_load_the_engine_mostly_does_not_notify_and_nothing_is_lost_or_late(adaptive: Database) -> None:
    load_leads(adaptive, 20_000)
    with daemon_asleep(adaptive) as daemon:
        pending = list(under_load(adaptive, rate=1_000, seconds=6))
        eventually(lambda: adaptive.value("SELECT count(*) = 0 FROM ops.cabinet_recovery_outbox"))
        assert daemon.stop() == 0
        matches = adaptive.value("SELECT last_value FROM public.load")
        told = daemon.wait_for("service.stopped")
    recovered = adaptive.value("SELECT count(*) FROM ops.cabinet_lead_recovery_audit")
    print(f"{matches} matches, {told['notifications']} notified; pending second by second: {pending}")

    assert recovered == matches
    # Where the machine does not come to the rate at which a keeper wakes, the engine rightly notifies.
    assert told["notifications"] < matches / 2 or matches < 4_000
    assert daemon.plain_lines == []


def load_leads(database: Database, size: int) -> None:
    database.run(
        "INSERT INTO canon.identity_registry (person_key, confidence_level) "
        "SELECT lpad(to_hex(n), 32, '0')::uuid, 'HIGH' FROM generate_series(1, %s) AS n",
        size,
    )
    database.run(
        "INSERT INTO public.module_ct_cabinet_leads (external_id, lead_created_at) "
        "SELECT 'load-' || n, now() FROM generate_series(1, %s) AS n",
        size,
    )
    database.run("CREATE SEQUENCE public.load")


def under_load(database: Database, rate: int, seconds: int) -> Iterator[int]:
    """Let pgbench match single leads; yield, second by second, how many events are pending."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "match.sql"
        script.write_text(MATCH)
        command = [str(runnable_binaries() / "pgbench"), "--no-vacuum", "--protocol=prepared", "--client=8"]
        command += [f"--rate={rate}", f"--time={seconds}", f"--file={script}", database.owner_url]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as bench:
            while bench.poll() is None:
                time.sleep(1)  # what is pending while it lasts is the measurement
                yield int(database.value("SELECT count(*) FROM ops.cabinet_recovery_outbox"))
            output, errors = bench.communicate()
    assert bench.returncode == 0, errors
    assert re.search(r"number of failed transactions: 0", output)
