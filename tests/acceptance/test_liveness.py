"""The daemon's proof that it is alive, what it does without one, and what it tells those who watch over it."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from consumer.connection import open_connection
from consumer.outage import Outage
from consumer.role import Place, Role
from db.connect import Address, Connection
from db.embedded import DISPOSABLE_SETTINGS, SHARED_TEMPORARY, EmbeddedServer
from db.liveness import deadline
from db.migrate import migrate
from tests.chaos.proxy import Proxy
from tests.database import Database
from tests.processes import PATIENCE_SECONDS, Daemon, environment, eventually, over_tcp, own_server
from tests.servers import TemplateDatabase
from tests.traffic import (
    QUIET,
    audits,
    match,
    matched_one_by_one,
    matched_until_worked,
    slow_lead,
    unmatched_leads,
    wait_until_in_hand,
)

PROVED_OFTEN = {**QUIET, "proof_interval_seconds": "1"}
DEGRADED = {**PROVED_OFTEN, "proof_timeout_seconds": "1", "degraded_sweep_interval_seconds": "1"}


class TestTheProof:
    def test_is_given_at_start_and_renewed(self, database: Database) -> None:
        with Daemon(database.url, **PROVED_OFTEN) as daemon, closing(psycopg.connect(database.owner_url)) as connection:
            daemon.wait_for("listener.proved")
            connection.autocommit = True
            (channel,) = proof_channels(database)
            connection.execute(f"LISTEN {channel}")
            renewed = list(connection.notifies(timeout=20, stop_after=3))

            assert len({nonce.payload for nonce in renewed}) == 3
            assert daemon.events("database.lost") == []
            assert daemon.stop() == 0

    def test_cannot_be_given_by_somebody_else(self, database: Database) -> None:
        with Daemon(database.url, **PROVED_OFTEN) as daemon:
            daemon.wait_for("listener.proved")
            (channel,) = proof_channels(database)
            for payload in ("", "0", "x" * 7000):
                database.run("SELECT pg_notify(%s, %s)", channel, payload)
            daemon.wait_for_leads(matched_one_by_one(database, "after", 1))
            assert daemon.stop() == 0

            assert daemon.wait_for("service.stopped")["notifications"] == 1
            assert daemon.plain_lines == []

    def test_fails_where_the_listener_is_on_another_database_and_sweeps_stand_in(
        self, database: Database, template: TemplateDatabase
    ) -> None:
        elsewhere = template.fresh()

        often_told = {**DEGRADED, "outage_log_interval_seconds": "1"}
        with Daemon(database.url, **often_told, listener_database_url=elsewhere) as daemon:

            def reason() -> str:
                """Where they differ is known once the prober is connected as well."""
                told = [one["reason"] for one in daemon.events("database.lost", role="listener")]
                return next((one for one in told if "another server or database" in one), "")

            lost = eventually(reason)
            leads = matched_one_by_one(database, "unheard", 5)
            eventually(lambda: set(audits(database)) == set(leads), seconds=15)
            assert daemon.events("listener.proved") == []
            assert daemon.stop() == 0

        assert "CABINET_RECOVERY_LISTENER_DATABASE_URL" in lost
        template.drop(elsewhere)

    def test_that_stays_away_is_told_of_once_whatever_others_send_in_its_place(
        self, database: Database, template: TemplateDatabase
    ) -> None:
        elsewhere = template.fresh()

        with (
            Daemon(database.url, **DEGRADED, listener_database_url=elsewhere) as daemon,
            closing(Database(elsewhere)) as others,
        ):

            def came_again() -> bool:
                for channel in filter(None, proof_channels(others)):  # none yet, as it connects
                    others.run("SELECT pg_notify(%s, 'no proof')", channel)
                return len(daemon.events("listener.listening")) >= 4

            eventually(came_again, 60)
            assert daemon.stop() == 0

            assert len(daemon.events("database.lost")) == 1
            assert daemon.events("database.regained") == []
            assert len(daemon.events("listener.listening", level="info")) == 1
        template.drop(elsewhere)

    def test_may_take_longer_than_the_interval_but_is_demanded_in_its_time_all_the_same(self) -> None:
        patient = {**QUIET, "proof_interval_seconds": "1", "proof_timeout_seconds": "3"}
        with own_server() as server, Proxy(server.port) as proxy:
            migrate(Address.parse(server.url()))
            late = make_conninfo(over_tcp(server, server.url()), port=proxy.port)
            with (
                Daemon(server.url(), **patient, listener_database_url=late) as daemon,
                closing(Database(server.url())) as database,
                psycopg.connect(server.url(), autocommit=True) as onlooker,
            ):
                daemon.wait_for("listener.proved")
                onlooker.execute(f"LISTEN {proof_channels(database)[0]}")
                proxy.delay(1.2)
                nonces = set[str]()
                while len(nonces) < 3:  # the next is made once the last has come back
                    nonces |= {one.payload for one in onlooker.notifies(timeout=PATIENCE_SECONDS, stop_after=1)}
                assert daemon.events("database.lost") == []

                proxy.hold()
                daemon.wait_for("database.lost", role="listener")
                proxy.release()
                assert daemon.stop() == 0


def proof_channels(database: Database) -> list[str]:
    """The listener's last statement was to LISTEN to its channel of proofs."""
    rows = database.run(
        "SELECT substring(query FROM 'cabinet_recovery_proof_[0-9a-f]+') AS channel FROM pg_stat_activity "
        "WHERE application_name = 'cabinet-recovery listener' AND datname = current_database()"
    )
    return [row["channel"] for row in rows]


class TestTheConnections:
    def test_are_four_of_which_none_stays_in_a_transaction(self, database: Database) -> None:
        with Daemon(database.url, **QUIET) as daemon:
            daemon.wait_for_leads(matched_one_by_one(database, "some", 3))
            daemon.wait_for("listener.proved")
            daemon.wait_for("service.ready")
            four = [f"cabinet-recovery {role}" for role in ("listener", "prober", "sweeper", "worker")]
            # Each role connects by itself, the worker perhaps after all that was waited for.
            eventually(lambda: self._names_if_idle(database) == four)
            assert daemon.stop() == 0

    def _names_if_idle(self, database: Database) -> list[str]:
        rows = database.run(
            "SELECT application_name, state, backend_xmin FROM pg_stat_activity "
            "WHERE application_name LIKE 'cabinet-recovery%%' AND datname = current_database()"
        )
        idle = all(row["state"] == "idle" and row["backend_xmin"] is None for row in rows)
        return sorted(row["application_name"] for row in rows) if idle else []

    @pytest.mark.parametrize("role", ["listener", "worker", "sweeper", "prober"])
    def test_that_are_ended_while_idle_are_made_anew_before_they_are_needed(
        self, database: Database, role: str
    ) -> None:
        def backends() -> set[int]:
            rows = database.run(
                "SELECT pid FROM pg_stat_activity WHERE application_name = %s AND datname = current_database()",
                f"cabinet-recovery {role}",
            )
            return {row["pid"] for row in rows}

        with Daemon(database.url, **QUIET) as daemon:
            daemon.wait_for("listener.proved")
            (ended,) = eventually(backends)
            database.run("SELECT pg_terminate_backend(%s)", ended)
            eventually(lambda: backends() - {ended})
            daemon.wait_for("database.regained")
            assert daemon.stop() == 0

            assert len(daemon.events("database.lost")) == 1


@contextmanager
def migrated_server(**settings: str) -> Iterator[EmbeddedServer]:
    with tempfile.TemporaryDirectory(prefix="crpg-", dir=SHARED_TEMPORARY) as folder:
        Path(folder).chmod(0o755)  # the server's account may be another one
        with EmbeddedServer(Path(folder) / "data", settings={**DISPOSABLE_SETTINGS, **settings}) as server:
            migrate(Address.parse(server.url()))
            yield server


def test_a_notification_queue_that_fills_is_warned_about_from_a_tenth() -> None:
    with (
        migrated_server(max_notify_queue_pages="64") as server,
        closing(Database(server.url())) as database,
        psycopg.connect(server.url()) as stuck,
    ):
        stuck.execute("LISTEN anything")
        stuck.commit()
        stuck.execute("BEGIN")  # whoever listens and stays in a transaction holds the whole queue back
        stuck.execute("SELECT 1")
        with Daemon(server.url(), **PROVED_OFTEN) as daemon:
            daemon.wait_for("listener.proved")
            while database.value("SELECT pg_notification_queue_usage()") < 0.12:
                database.run("SELECT pg_notify('anything', repeat('x', 7000) || n) FROM generate_series(1, 9) AS n")
            warned = daemon.wait_for("notify_queue.filling")
            stuck.rollback()
            database.run("NOTIFY anything")
            daemon.wait_for("notify_queue.drained")
            assert daemon.stop() == 0

    assert 0.1 <= warned["usage"] < 0.3


def test_an_answer_that_did_not_come_in_time_is_not_told_of_as_a_crash_of_the_server(database: Database) -> None:
    async def ask() -> None:
        connection = await open_connection(Address.parse(database.url), "test")
        async with connection, deadline(connection, 0.2):
            await connection.execute("SELECT pg_sleep(60)")

    with pytest.raises(psycopg.OperationalError, match=r"^the server did not answer within 0\.2 s$"):
        asyncio.run(ask())


class TestARole:
    def test_may_be_started_and_closed_any_number_of_times(self, database: Database) -> None:
        uses: list[int] = []

        async def run() -> None:
            used = asyncio.Event()

            async def use(connection: Connection, progress: Callable[[], None]) -> None:
                progress()
                uses.append(connection.info.backend_pid)
                used.set()
                await asyncio.Event().wait()

            role = Role("idler", use, Place(Address.parse(database.url), 1), Outage(), holds_work=False)
            role.close()
            async with asyncio.TaskGroup() as group:
                assert role.start(group) is role.start(group)
            again = Role("idler", use, Place(Address.parse(database.url), 1), Outage(), holds_work=False)
            async with asyncio.TaskGroup() as group:
                assert again.start(group) is again.start(group)
                await used.wait()
                again.close()
                again.close()
            assert again.start(group).done()

        asyncio.run(run())
        assert len(uses) == 1


class TestBeingAskedTwice:
    @pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
    def test_aborts_the_batch_in_hand_and_loses_nothing(
        self, database: Database, number: signal.Signals, status: int
    ) -> None:
        slow = slow_lead(database, seconds=60)

        with Daemon(database.url, **QUIET, shutdown_grace_seconds="60") as daemon:
            daemon.wait_for("listener.listening")
            match(database, [slow])
            wait_until_in_hand(database)
            daemon.process.send_signal(number)
            daemon.wait_for("service.stopping")

            assert daemon.stop(number) == status  # the batch would take twice as long as this waits

            (line,) = daemon.plain_lines
            assert line == "consumer: the batch in hand was given up at the second signal; its events stand"
        assert database.audit_of(slow) is None
        assert database.events() == [(slow, "matching_job")]


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_role_that_dies_takes_the_process_with_it_and_is_named(database: Database, log_format: str) -> None:
    """A defect, here of the schema: an event of no time that there is. What variables hold is not for the log."""
    definition = database.value("SELECT pg_get_viewdef('ops.v_cabinet_recovery_pending'::regclass)")
    database.connection.execute(
        "CREATE OR REPLACE VIEW ops.v_cabinet_recovery_pending AS SELECT lead_id, events, "
        "'infinity'::timestamptz AS requested_at, parked_at, next_attempt_at, is_due "
        f"FROM ({definition.rstrip(';')}) AS told"
    )
    match(database, unmatched_leads(database, "any", 1))

    with Daemon(f"{database.url} password=Geheim77", **QUIET, log_format=log_format) as daemon:
        assert daemon.end() == 1

        assert daemon.plain_lines[-1].startswith("consumer: the sweeper died: ")
        assert "role.died" in daemon.log
        assert "Geheim77" not in daemon.log


def test_a_missing_right_is_told_of_with_what_mends_it(database: Database) -> None:
    database.run("REVOKE ALL ON ops.cabinet_recovery_alembic_version FROM PUBLIC")
    database.run("CREATE ROLE stranger_to_us LOGIN")
    try:
        with Daemon(make_conninfo(database.url, user="stranger_to_us"), **QUIET) as daemon:
            assert daemon.end() == 4

            (line,) = daemon.plain_lines
            assert "permission denied" in line
            assert "consumer grants" in line
    finally:
        database.run("DROP ROLE stranger_to_us")


def test_the_server_s_date_style_does_not_matter(database: Database) -> None:
    with Daemon(f"{database.url} options='-c datestyle=SQL,DMY'", **QUIET) as daemon:
        daemon.wait_for("listener.proved")
        daemon.wait_for_leads(matched_one_by_one(database, "dated", 2))
        assert daemon.stop() == 0


def test_the_server_s_timeout_for_idle_sessions_ends_none_of_the_daemon_s(database: Database) -> None:
    with Daemon(f"{database.url} options='-c idle_session_timeout=1s'", **QUIET) as daemon:
        daemon.wait_for("service.ready")
        # Whoever sits idle as they do, and does not ask to be spared, is ended.
        with psycopg.connect(database.owner_url, autocommit=True, options="-c idle_session_timeout=2s") as other:
            other.execute("SELECT 1")
            with pytest.raises(psycopg.OperationalError):
                next(other.notifies(timeout=PATIENCE_SECONDS))

        daemon.wait_for_leads(matched_one_by_one(database, "idle", 1))
        assert daemon.events("database.lost") == []
        assert daemon.stop() == 0


def test_a_lead_that_was_held_while_all_were_looked_at_is_not_forgotten(database: Database) -> None:
    """Nothing but its state told of it, and all leads are looked at only once."""
    held = database.lead(matched_to=(person := database.person()))
    database.run("DELETE FROM ops.cabinet_recovery_outbox")
    database.origin(person, tag="migration")

    with psycopg.connect(database.owner_url) as holder, Daemon(database.url, **QUIET) as daemon:
        holder.execute("SELECT FROM canon.identity_origin FOR UPDATE")
        daemon.wait_for("sweep.finished", what="everything", busy=1)
        holder.rollback()
        eventually(lambda: database.audit_of(held))
        assert daemon.stop() == 0


class TestTheLogLevel:
    def test_is_reread_from_its_file_at_sighup(self, database: Database, tmp_path: Path) -> None:
        named = tmp_path / "log-level"

        with Daemon(database.url, **{**QUIET, "log_level": "info"}, log_level_file=str(named)) as daemon:
            daemon.wait_for("listener.proved")
            named.write_text("debug\n")
            daemon.process.send_signal(signal.SIGHUP)
            assert daemon.wait_for("log_level.reread")["log_level"] == "debug"
            database.run("SELECT pg_notify('cabinet_recovery', 'nobody')")
            daemon.wait_for("hints.unmatched")

            named.write_text("loud")
            daemon.process.send_signal(signal.SIGHUP)
            assert "takes debug, info, warning, error, not 'loud'" in daemon.wait_for("log_level.refused")["reason"]

            assert daemon.stop() == 0

    def test_in_a_file_that_names_none_is_told_of_and_keeps_nobody_from_starting(
        self, database: Database, tmp_path: Path
    ) -> None:
        named = tmp_path / "log-level"
        named.write_text("loud")

        with Daemon(database.url, log_level_file=str(named)) as daemon:
            refused = daemon.wait_for("log_level.refused")
            daemon.wait_for("service.ready")
            assert daemon.stop() == 0

        assert "takes debug, info, warning, error, not 'loud'" in refused["reason"]


def test_in_the_journal_each_line_has_its_priority() -> None:
    ours, theirs = os.pipe()
    with os.fdopen(ours) as journal:
        place = os.fstat(theirs)
        variables = environment("host=127.0.0.1 port=1 user=nobody dbname=nothing")
        variables["JOURNAL_STREAM"] = f"{place.st_dev}:{place.st_ino}"
        daemon = subprocess.Popen([sys.executable, "-m", "consumer", "run"], stderr=theirs, env=variables)
        os.close(theirs)
        try:
            assert journal.readline().startswith('<6>{"')
            assert '"event": "database.lost"' in (line := journal.readline())
            assert line.startswith('<4>{"')
        finally:
            daemon.terminate()
            daemon.wait(PATIENCE_SECONDS)


class TestALogThatNobodyTakes:
    """Its disk is full, or who read it is gone: leads are recovered all the same."""

    @staticmethod
    def go_on(database: Database, stderr: int, after: Callable[[], None] = lambda: None) -> int:
        process = subprocess.Popen(
            [sys.executable, "-m", "consumer", "run"], stderr=stderr, env=environment(database.url)
        )
        try:
            os.close(stderr)
            after()
            for number in range(2):
                lead = database.lead(f"unlogged-{number}", matched_to=database.person())
                eventually(lambda: database.audit_of(lead))  # noqa: B023 # called at once
            process.terminate()
            return process.wait(PATIENCE_SECONDS)
        finally:
            process.kill()

    def test_as_its_disk_is_full(self, database: Database) -> None:
        assert self.go_on(database, os.open("/dev/full", os.O_WRONLY)) == 0

    def test_as_its_reader_is_gone(self, database: Database) -> None:
        ours, theirs = os.pipe()
        with os.fdopen(ours) as journal:

            def read_and_leave() -> None:
                assert "service.started" in journal.readline()
                journal.close()

            assert self.go_on(database, theirs, read_and_leave) == 0


class TestTheServiceManager:
    """What systemd is told, here by way of a socket of ours."""

    @pytest.mark.parametrize("kind", ["path", "abstract"])
    def test_hears_that_it_is_ready_how_it_is_and_that_it_stops(self, database: Database, kind: str) -> None:
        with manager_socket(kind) as (address, heard):
            variables = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "3000000"}
            with Daemon(database.url, variables, **QUIET) as daemon:
                hear(heard, "READY=1")
                daemon.wait_for("service.ready")
                listeners = database.run(
                    "SELECT pid FROM pg_stat_activity WHERE application_name = 'cabinet-recovery listener' "
                    "AND datname = current_database()"
                )
                assert len(listeners) == 1
                leads = matched_until_worked(database, daemon)
                hear(heard, "WATCHDOG=1")
                hear(heard, "STATUS=listening; last lead recovered ", f"; {len(leads)} recovered")
                assert daemon.stop() == 0
                hear(heard, "STOPPING=1")

    def test_is_asked_for_patience_while_the_server_is_away(self) -> None:
        with own_server() as server:
            migrate(Address.parse(server.url()))
            server.stop()
            with manager_socket("path") as (address, heard):
                variables = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "3000000"}
                with Daemon(server.url(), variables, **QUIET) as daemon:
                    hear(heard, "EXTEND_TIMEOUT_USEC=")
                    hear(heard, "WATCHDOG=1")
                    assert daemon.events("service.ready") == []
                    server.start()
                    hear(heard, "READY=1")
                    assert daemon.stop() == 0


@contextmanager
def manager_socket(kind: str) -> Iterator[tuple[str, socket.socket]]:
    """Where a service manager would listen: its NOTIFY_SOCKET, and the socket itself."""
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.settimeout(30)
        address = f"@{folder}" if kind == "abstract" else f"{folder}/notify"
        heard.bind(address.replace("@", "\0"))
        yield address, heard


def hear(heard: socket.socket, *wanted: str) -> None:
    """Wait for a message with all of these words in it."""
    message = ""
    while not all(words in message for words in wanted):
        message = heard.recv(4096).decode()
