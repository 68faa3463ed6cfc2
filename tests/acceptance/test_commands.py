"""The commands as operators and their scripts meet them: answers, exit statuses, and what they say when they cannot."""

import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import Field, fields
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import psycopg
import pytest
import structlog
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from consumer.settings import Settings, variable_of
from db.connect import SCHEMA_REVISION, Address
from db.embedded import EmbeddedServer
from db.migrate import migrate
from tests.database import Database
from tests.processes import (
    ELSEWHERE,
    PATIENCE_SECONDS,
    InThisProcess,
    environment,
    eventually,
    over_tcp,
    own_server,
    run_command,
    run_python,
    standby_of,
    started,
)
from tests.servers import TemplateDatabase

NINE_KEYS = {
    *("processed", "links_created", "links_updated", "origins_created", "origins_updated"),
    *("audit_created", "audit_updated", "skipped", "errors"),
}
COMMANDS = (
    *(("run",), ("sweep",), ("reprocess",), ("status",), ("migrate",), ("demo",), ("triggers",), ("uninstall",)),
    *(("triggers", "enable"), ("triggers", "disable"), ("triggers", "status")),
    *(("parked",), ("parked", "list"), ("parked", "show"), ("parked", "retry")),
    *(("impact",), ("why",), ("doctor",)),
)
# Each needs a database that can be worked with.
WORKING = (
    *(("sweep",), ("reprocess", "some-lead"), ("status",), ("triggers", "status")),
    *(("parked", "list"), ("parked", "show", "some-lead"), ("parked", "retry", "--all")),
    *(("impact",), ("why", "some-lead"), ("sweep", "--dry-run"), ("reprocess", "--dry-run", "some-lead")),
)
SECRET = "Geheim77"  # so that it can be looked for


def refused(done: CompletedProcess[str], status: int) -> str:
    """Return the one line in which a command said why it could not; nothing else may have been said."""
    assert done.returncode == status, done
    assert done.stdout == ""
    assert SECRET not in done.stderr
    (line,) = done.stderr.splitlines()
    assert re.match(r"consumer: \S", line), line
    return line.removeprefix("consumer: ")


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[InThisProcess]:
    yield InThisProcess(monkeypatch, capfd)
    structlog.reset_defaults()  # it logs to this test's stderr, which is gone


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedServer]:
    """A server that is reached over TCP and asks for a password."""
    with own_server() as server:
        yield server


@pytest.fixture(scope="module")
def remote(server: EmbeddedServer) -> str:
    """A migrated database on it."""
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute("CREATE DATABASE fleet")
    url = server.url("fleet")
    migrate(Address.parse(url))
    return over_tcp(server, url)


class TestHelp:
    def test_comes_from_the_console_script_and_from_the_package_alike(self) -> None:
        script = subprocess.run(
            [Path(sys.executable).with_name("consumer"), "--help"],
            check=True,
            capture_output=True,
            text=True,
            cwd=ELSEWHERE,
            env=environment(None),
        )

        module = run_command("--help")

        assert script.stdout.startswith("Usage: consumer ")
        assert module.stdout.startswith("Usage: python -m consumer ")
        assert script.stdout.splitlines()[1:] == module.stdout.splitlines()[1:]

    def test_of_the_program_names_commands_settings_and_exit_statuses(self) -> None:
        done = run_command("--help")

        assert (done.returncode, done.stderr) == (0, "")
        for command in COMMANDS:
            assert command[0] in done.stdout
        for setting in fields(Settings):
            assert variable_of(setting) in done.stdout
        for status in range(6):
            assert re.search(rf"\b{status} \w", done.stdout)

    @pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
    def test_of_each_command_says_what_it_does(self, call: InThisProcess, command: tuple[str, ...]) -> None:
        for option in ("--help", "-h"):
            done = call(*command, option)

            assert (done.returncode, done.stderr) == (0, "")
            assert "Usage: consumer " + " ".join(command) in done.stdout
            assert len(done.stdout.splitlines()) > 5

    @pytest.mark.parametrize(
        ("command", "words"),
        [
            ("run", ["SIGTERM", "stderr"]),
            ("sweep", ["--limit", "10000", "--json", "cron"]),
            ("reprocess", ["LEAD_ID", "external_id", "--json"]),
            ("status", ["--json", "pending", "impact"]),
            ("migrate", ["host", "locks"]),
            ("demo", ["--keep", "20 seconds"]),
        ],
    )
    def test_of_a_command_mentions_what_matters(self, call: InThisProcess, command: str, words: list[str]) -> None:
        text = " ".join(call(command, "--help").stdout.split())

        assert [word for word in words if word not in text] == []

    @pytest.mark.parametrize("command", [(), ("triggers",)], ids=["consumer", "triggers"])
    def test_comes_where_no_command_is_given(self, call: InThisProcess, command: tuple[str, ...]) -> None:
        done = call(*command)

        assert done.returncode == 2
        assert "Usage: consumer" in done.stdout + done.stderr
        assert "consumer:  (see" not in done.stderr


class TestWrongArguments:
    @pytest.mark.parametrize("limit", ["0", "-1", "many", "1.5", "", "9" * 30])
    def test_a_limit_that_is_none_is_refused(self, call: InThisProcess, database: Database, limit: str) -> None:
        assert "--limit" in refused(call("sweep", "--limit", limit, DATABASE_URL=database.url), 2)

    @pytest.mark.parametrize(
        "arguments",
        [
            *(["sweep", "--limit"], ["sweep", "--fast"], ["sweep", "everything"], ["frobnicate"], ["--fast"]),
            *(["reprocess"], ["reprocess", ""], ["reprocess", "a", "", "b"], ["reprocess", "\udcff"]),
            *(["triggers", "pause"], ["status", "now"], ["run", "away"], ["migrate", "--down"]),
        ],
        ids=" ".join,
    )
    def test_are_refused_with_a_hint(self, call: InThisProcess, database: Database, arguments: list[str]) -> None:
        assert "--help" in refused(call(*arguments, DATABASE_URL=database.url), 2)


class TestSettings:
    @pytest.mark.parametrize("command", [("run",), ("migrate",), ("uninstall", "--yes"), *WORKING], ids=" ".join)
    def test_without_an_address_nothing_starts(self, call: InThisProcess, command: tuple[str, ...]) -> None:
        for address in ({}, {"DATABASE_URL": ""}, {"DATABASE_URL": "  "}):
            line = refused(call(*command, **address), 2)

            assert "DATABASE_URL is not set" in line
            assert "consumer demo" in line

    @pytest.mark.parametrize(
        "setting",
        [one for one in fields(Settings) if {"most", "choices"} & set(one.metadata)],
        ids=lambda one: one.name,
    )
    def test_with_a_value_that_makes_no_sense_are_named(self, call: InThisProcess, setting: Field[Any]) -> None:
        name = variable_of(setting)
        wrong = ["", " ", "much"]
        if "most" in setting.metadata:
            wrong += ["-1", "1.5", "1e3", "\uff11", "9" * 50]
            wrong += [str(setting.metadata["least"] - 1), str(setting.metadata["most"] + 1)]
        for value in wrong:
            line = refused(call("sweep", DATABASE_URL="dbname=any", **{name: value}), 2)

            assert line.startswith(name), value

    def test_with_an_address_for_the_listener_that_is_none_name_it_and_do_not_repeat_it(
        self, call: InThisProcess
    ) -> None:
        name = "CABINET_RECOVERY_LISTENER_DATABASE_URL"

        assert refused(call("run", DATABASE_URL="dbname=any", **{name: f"password={SECRET} much"}), 2).startswith(name)
        # An empty line in a file of the environment sets nothing.
        assert refused(call("sweep", DATABASE_URL="dbname=any host=/nowhere", **{name: " "}), 4)

    def test_are_taken_with_blanks_around_and_in_capitals(self, database: Database) -> None:
        done = run_command("sweep", "--json", url=f" {database.url}\n", batch_size=" 7 ", log_level="WARNING")

        assert (done.returncode, done.stderr) == (0, "")


class TestAddresses:
    @pytest.mark.parametrize(
        "form",
        [
            "postgresql://{login}@{host}:{port}/fleet",
            "postgres://{login}@{host}:{port}/fleet",
            "postgresql+psycopg2://{login}@{host}:{port}/fleet",
            "postgresql+psycopg://{login}@{host}:{port}/fleet?connect_timeout=3",
            "postgresql+asyncpg://{login}@{host}:{port}/fleet?ssl=prefer",
            "postgresql+asyncpg://{login}@{host}:{port}/fleet?ssl=disable&application_name=a%20b",
            "postgresql://{login}@{host}:{port}/fleet?sslmode=disable",
            "postgresql://{login}@{host}:{port}/fleet?sslmode=prefer",
            "postgresql://{host}:{port}/fleet?user=postgres&password={password}",
            "postgresql://{login}@{host}:1,{host}:{port}/fleet",
            "postgresql://{login}@{host}:1,{host}:{port}/fleet?target_session_attrs=read-write",
            "host={host} port={port} dbname=fleet user=postgres password={password}",
            "host='{host}' port = {port} dbname=fleet user=postgres password='{password}' application_name='a://b'",
            "host={host},{host} port=1,{port} dbname=fleet user=postgres password={password}",
        ],
    )
    def test_of_every_shape_are_understood(
        self, call: InThisProcess, server: EmbeddedServer, remote: str, form: str
    ) -> None:
        password = conninfo_to_dict(remote)["password"]
        parts = {"host": "127.0.0.1", "port": server.port, "password": password, "login": f"postgres:{password}"}

        done = call("status", "--json", DATABASE_URL=form.format(**parts))

        assert (done.returncode, done.stderr) == (0, "")
        assert json.loads(done.stdout)["pending_leads"] == 0

    @pytest.mark.parametrize(
        "address",
        [
            f"mysql://fleet:{SECRET}@127.0.0.1/fleet",
            f"postgresql:/fleet:{SECRET}@127.0.0.1/fleet",
            f"fleet:{SECRET}@127.0.0.1:5432/fleet",
            SECRET,
            f"host=127.0.0.1 pasword={SECRET}",
            f"host=127.0.0.1 password='{SECRET}",
            f"host=127.0.0.1 password=my {SECRET} dbname=fleet",
            f"postgresql://fleet:{SECRET}%zz@127.0.0.1:1/fleet",
            f"postgresql://fleet:{SECRET}@[::1/fleet",
            f"postgresql://fleet:{SECRET}@127.0.0.1:1/fleet?sslmood={SECRET}",
        ],
    )
    def test_that_are_none_are_refused_and_never_repeated(self, call: InThisProcess, address: str) -> None:
        assert "DATABASE_URL" in refused(call("sweep", DATABASE_URL=address), 2)

    @pytest.mark.parametrize(
        "address",
        [
            f"postgresql://fleet:{SECRET}/x@127.0.0.1:1/fleet",
            f"postgresql://fleet:x/{SECRET}@127.0.0.1:1/fleet",
            f"postgresql://fleet:x@{SECRET}@127.0.0.1:1/fleet",
            f"postgresql://fleet:x@{SECRET}:1/{SECRET}@127.0.0.1:1/fleet",
            f"postgresql://me@fleet:{SECRET}@127.0.0.1:1/fleet",
            f"postgresql://fleet:/{SECRET}@127.0.0.1:1/fleet",
            f"postgresql://fleet:123/{SECRET}@127.0.0.1:1/fleet",
        ],
    )
    def test_with_a_password_that_is_not_in_percent_form_are_refused_and_never_repeated(
        self, call: InThisProcess, address: str
    ) -> None:
        line = refused(call("sweep", DATABASE_URL=address), 2)

        assert "DATABASE_URL" in line
        assert "percent form" in line

    @pytest.mark.parametrize(
        "options",
        [
            *("port=door", "port=99999", "port=1,2", "connect_timeout=soon", "sslmode=maybe"),
            *("target_session_attrs=any-will-do", "service=nowhere", "channel_binding=maybe", "gssencmode=maybe"),
        ],
    )
    def test_with_an_option_that_no_server_ever_sees_are_refused(self, call: InThisProcess, options: str) -> None:
        refused(call("sweep", DATABASE_URL=f"host=127.0.0.1 dbname=fleet password={SECRET} {options}"), 2)


class TestADatabaseThatCannotBeWorkedWith:
    @pytest.mark.parametrize("command", [*WORKING, ("migrate",)], ids=" ".join)
    def test_because_no_server_answers_ends_with_4(self, call: InThisProcess, command: tuple[str, ...]) -> None:
        line = refused(call(*command, DATABASE_URL=f"postgresql://fleet:{SECRET}@127.0.0.1:1/fleet"), 4)

        assert "127.0.0.1" in line
        assert "refused" in line

    @pytest.mark.parametrize("command", [*WORKING, ("migrate",)], ids=" ".join)
    def test_because_the_password_is_wrong_ends_with_4(
        self, call: InThisProcess, server: EmbeddedServer, remote: str, command: tuple[str, ...]
    ) -> None:
        line = refused(call(*command, DATABASE_URL=over_tcp(server, remote, password=SECRET)), 4)

        assert 'password authentication failed for user "postgres"' in line

    @pytest.mark.slow
    @pytest.mark.parametrize("command", [*WORKING, ("migrate",)], ids=" ".join)
    def test_because_the_server_accepts_and_never_answers_ends_with_4(self, command: tuple[str, ...]) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            address = f"postgresql://fleet:{SECRET}@127.0.0.1:{silent.getsockname()[1]}/fleet"

            done = run_command(*command, url=address)

        assert "timeout" in refused(done, 4)

    def test_because_it_does_not_exist_ends_with_4(self, call: InThisProcess, database: Database) -> None:
        assert "does not exist" in refused(call("sweep", DATABASE_URL=f"{database.url} dbname=nowhere"), 4)

    @pytest.mark.parametrize("command", WORKING, ids=" ".join)
    def test_because_the_schema_is_missing_ends_with_3(
        self, call: InThisProcess, server_url: str, command: tuple[str, ...]
    ) -> None:
        with TemplateDatabase(server_url, prepare=lambda _: None) as empty:
            url = empty.fresh()
            line = refused(call(*command, DATABASE_URL=url), 3)
            empty.drop(url)

        assert line == "the service's schema is missing: run `consumer migrate`"

    @pytest.mark.parametrize("command", WORKING, ids=" ".join)
    def test_because_the_schema_is_outdated_ends_with_3(
        self, call: InThisProcess, database: Database, command: tuple[str, ...]
    ) -> None:
        database.run("UPDATE ops.cabinet_recovery_alembic_version SET version_num = '0004'")

        line = refused(call(*command, DATABASE_URL=database.url), 3)

        assert "outdated" in line
        assert "run `consumer migrate`" in line

    def test_because_our_version_table_is_empty_ends_with_3(self, call: InThisProcess, database: Database) -> None:
        """As a downgrade leaves it."""
        database.run("DELETE FROM ops.cabinet_recovery_alembic_version")

        assert "run `consumer migrate`" in refused(call("sweep", DATABASE_URL=database.url), 3)

    def test_because_the_role_lacks_its_rights_ends_with_4(self, call: InThisProcess, database: Database) -> None:
        role = f"stranger_{os.getpid()}"
        database.connection.execute(f"CREATE ROLE {role} LOGIN")
        try:
            for command in WORKING:
                line = refused(call(*command, DATABASE_URL=f"{database.url} options='-c role={role}'"), 4)

                assert "permission denied" in line
        finally:
            database.connection.execute(f"DROP ROLE {role}")


def test_a_newer_schema_is_worked_with_and_left_by_migrate(call: InThisProcess, database: Database) -> None:
    """As after going back to the release before."""
    database.run("UPDATE ops.cabinet_recovery_alembic_version SET version_num = '9999'")

    assert call("sweep", "--json", DATABASE_URL=database.url).returncode == 0
    done = call("migrate", DATABASE_URL=database.owner_url)

    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.returncode in (0, 3)


class TestAStandby:
    """Streams from the primary and takes no writes."""

    @pytest.fixture(scope="class")
    @classmethod
    def standby(cls, server: EmbeddedServer, remote: str) -> Iterator[EmbeddedServer]:  # noqa: ARG003 # it is copied too
        with standby_of(server) as standby:
            yield standby

    @pytest.mark.parametrize("command", WORKING, ids=" ".join)
    def test_is_refused_with_4(self, call: InThisProcess, standby: EmbeddedServer, command: tuple[str, ...]) -> None:
        line = refused(call(*command, DATABASE_URL=standby.url("fleet")), 4)

        assert "read-only standby" in line
        assert "target_session_attrs=read-write" in line

    def test_takes_no_migration(self, call: InThisProcess, standby: EmbeddedServer) -> None:
        assert "read-only" in refused(call("migrate", DATABASE_URL=standby.url("postgres")), 4)

    def test_among_several_hosts_is_passed_by(
        self, call: InThisProcess, server: EmbeddedServer, standby: EmbeddedServer, remote: str
    ) -> None:
        both = make_conninfo(
            remote,
            host=f"{conninfo_to_dict(standby.url())['host']},127.0.0.1",
            port=f"{standby.port},{server.port}",
        )

        for attributes in ("", "target_session_attrs=read-write", "target_session_attrs=primary"):
            assert call("sweep", "--json", DATABASE_URL=f"{both} {attributes}").returncode == 0
        line = refused(call("sweep", DATABASE_URL=f"{both} target_session_attrs=any"), 4)
        assert "read-only standby" in line

    @pytest.mark.parametrize("attributes", ["", "target_session_attrs=primary"])
    def test_of_which_all_hosts_are_is_named_as_such(
        self, call: InThisProcess, standby: EmbeddedServer, remote: str, attributes: str
    ) -> None:
        place = conninfo_to_dict(standby.url())
        both = make_conninfo(remote, host=f"{place['host']},{place['host']}", port=f"{standby.port}")

        assert "read-only standby" in refused(call("sweep", DATABASE_URL=f"{both} {attributes}"), 4)


class TestSweep:
    def test_answers_machines_with_exactly_nine_keys(self, database: Database) -> None:
        database.lead(matched_to=database.person())

        done = run_command("sweep", "--json", url=database.url)

        assert (done.returncode, done.stderr) == (0, "")
        result = json.loads(done.stdout)
        assert set(result) == NINE_KEYS
        assert (result["processed"], result["audit_created"], result["errors"]) == (1, 1, [])

    def test_answers_people_with_a_table(self, call: InThisProcess, database: Database) -> None:
        database.lead(matched_to=database.person())

        done = call("sweep", DATABASE_URL=database.url)

        assert (done.returncode, done.stderr) == (0, "")
        for key in NINE_KEYS:
            assert re.search(rf"^{key} +\d+$", done.stdout, re.MULTILINE)

    def test_takes_no_more_than_the_limit(self, call: InThisProcess, database: Database) -> None:
        for _ in range(3):
            database.lead(matched_to=database.person())

        done = call("sweep", "--limit", "2", "--json", DATABASE_URL=database.url)

        assert json.loads(done.stdout)["processed"] == 2

    def test_ends_with_5_where_leads_failed_and_says_which(self, call: InThisProcess, database: Database) -> None:
        database.run("ALTER TABLE canon.identity_origin ADD CHECK (origin_source_id <> 'bad')")
        database.lead("bad", matched_to=database.person())
        database.lead(matched_to=database.person())

        done = call("sweep", DATABASE_URL=database.url)

        assert done.returncode == 5
        assert re.search(r"^processed +1$", done.stdout, re.MULTILINE)
        assert re.search(r"^errors +1$", done.stdout, re.MULTILINE)
        assert "bad: failed: 23514" in done.stderr

    def test_from_python_returns_the_same_nine_keys_and_prints_nothing(self, database: Database) -> None:
        database.run("ALTER TABLE canon.identity_origin ADD CHECK (origin_source_id <> 'bad')")
        database.lead("bad", matched_to=database.person())
        database.lead(matched_to=database.person())

        done = run_python(
            "-c",
            "import json; from consumer import run_job; print(json.dumps(run_job(limit=1000)))",
            url=database.url,
            max_attempts="1",
        )

        assert done.returncode == 0, done.stderr
        result = json.loads(done.stdout)
        assert set(result) == NINE_KEYS
        assert (result["processed"], len(result["errors"])) == (1, 1)

    @pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    def test_that_is_interrupted_ends_after_the_batch_in_hand_with_its_counts(
        self, database: Database, number: signal.Signals, status: int
    ) -> None:
        leads = [database.lead(f"lead-{n}", matched_to=database.person()) for n in range(9)]
        hold_origins(database)
        with psycopg.connect(database.owner_url) as holder:
            holder.execute("SELECT pg_advisory_lock(1)")
            with started("sweep", "--json", url=database.url, batch_size="1") as sweep:
                eventually(lambda: len(held_backends(database)) == 2)
                sweep.send_signal(number)
                # Deaf to nothing: it is the batches in hand that it waits for.
                eventually(lambda: signal_is_pending(sweep.pid, number) is False)
                holder.execute("SELECT pg_advisory_unlock(1)")
                said, told = sweep.communicate(timeout=PATIENCE_SECONDS)

        assert (sweep.returncode, json.loads(said)["processed"]) == (status, 2)
        assert told == f"consumer: stopped by {number.name}; the next sweep goes on from here\n"
        recovered = [lead for lead in leads if database.audit_of(lead)]
        assert recovered == leads[:2]
        assert database.sweep().as_job_result()["audit_updated"] == 0, "nothing is done twice"
        assert all(database.audit_of(lead) for lead in leads)

    def test_that_is_interrupted_twice_ends_at_once_and_half_does_nothing(self, database: Database) -> None:
        slow = database.lead(matched_to=database.person())
        hold_origins(database)
        with psycopg.connect(database.owner_url) as holder:
            holder.execute("SELECT pg_advisory_lock(1)")
            with started("sweep", url=database.url) as sweep:
                eventually(lambda: held_backends(database))
                while sweep.poll() is None:
                    sweep.send_signal(signal.SIGINT)
                    with suppress(subprocess.TimeoutExpired):
                        sweep.wait(0.05)
                said = sweep.communicate(timeout=PATIENCE_SECONDS)

            assert (sweep.returncode, *said) == (-signal.SIGINT, "", "")
        # What it had sent, its commit included, the server may finish without it, or not.
        ours = "SELECT pid FROM pg_stat_activity WHERE application_name = 'cabinet-recovery sweep'"
        eventually(lambda: not database.run(ours))
        assert (database.audit_of(slow) is None) == (database.events() == [(slow, "matching_job")])
        database.sweep()
        assert database.audit_of(slow)

    def test_keeps_to_its_rate(self, database: Database) -> None:
        for _ in range(12):
            database.lead(matched_to=database.person())
        began = time.monotonic()

        done = run_command("sweep", "--json", "--max-rate", "8", url=database.url)

        assert json.loads(done.stdout)["processed"] == 12
        assert time.monotonic() - began >= 10 / 8, "a quarter of a second's leads may come at once"
        times = [
            row["last_recovered_at"]
            for row in database.run(
                "SELECT DISTINCT last_recovered_at FROM ops.cabinet_lead_recovery_audit ORDER BY last_recovered_at"
            )
        ]
        assert len(times) == 6, "two at a time: the smaller the rate, the smaller the batches"

    def test_waits_while_too_many_sessions_are_active_and_says_so_once(self, database: Database) -> None:
        lead = database.lead(matched_to=database.person())
        with psycopg.connect(database.owner_url, autocommit=True) as busy, ThreadPoolExecutor(1) as pool:
            work = pool.submit(busy.execute, "SELECT pg_sleep(60)")
            eventually(lambda: database.run("SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep'"))
            with started("sweep", "--json", "--max-active-sessions", "0", url=database.owner_url) as sweep:
                assert sweep.stderr
                waiting = json.loads(sweep.stderr.readline())
                assert database.audit_of(lead) is None
                busy.cancel()
                said, told = sweep.communicate(timeout=PATIENCE_SECONDS)
            assert isinstance(work.exception(), psycopg.errors.QueryCanceled)

        assert waiting["event"] == "sweep.waiting"
        assert re.fullmatch(r"\d+ sessions are active, more than 0", waiting["reason"])
        assert [json.loads(line)["event"] for line in told.splitlines()] == ["sweep.resumed"]
        assert json.loads(said)["processed"] == 1

    def test_waits_while_a_standby_s_replay_is_behind(self) -> None:
        with own_server() as primary, standby_of(primary) as standby:
            migrate(Address.parse(primary.url("postgres")))
            database = Database(primary.url("postgres"))
            lead = database.lead(matched_to=database.person())
            with psycopg.connect(standby.url("postgres"), autocommit=True) as replica:
                replica.execute("SELECT pg_wal_replay_pause()")
                behind = "SELECT pid FROM pg_stat_replication WHERE replay_lag > interval '0.5 s'"
                eventually(lambda: database.run("SELECT pg_switch_wal()") and database.run(behind))
                with started("sweep", "--json", "--max-replication-lag", "0.2", url=database.url) as sweep:
                    assert sweep.stderr
                    assert "replication lag is" in json.loads(sweep.stderr.readline())["reason"]
                    assert database.audit_of(lead) is None
                    replica.execute("SELECT pg_wal_replay_resume()")
                    said, _ = sweep.communicate(timeout=PATIENCE_SECONDS)
            database.close()

        assert json.loads(said)["processed"] == 1

    @pytest.mark.parametrize("option", [("--max-replication-lag", "5"), ("--max-active-sessions", "9")])
    def test_does_not_wait_for_what_its_role_cannot_see(
        self, call: InThisProcess, database: Database, option: tuple[str, str]
    ) -> None:
        database.lead(matched_to=database.person())
        role = f"blind_{os.getpid()}"
        database.connection.execute(f"CREATE ROLE {role}")
        for schema in ("public", "canon", "ops"):
            database.connection.execute(f"GRANT USAGE ON SCHEMA {schema} TO {role}")
            database.connection.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA {schema} TO {role}")
        try:
            line = refused(call("sweep", *option, DATABASE_URL=f"{database.owner_url} options='-c role={role}'"), 4)
        finally:
            database.connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")

        assert "GRANT pg_read_all_stats" in line

    @pytest.mark.parametrize(
        "option", [("--max-rate", "0"), ("--max-replication-lag", "-1"), ("--max-active-sessions", "x")]
    )
    def test_refuses_bounds_that_make_no_sense(self, call: InThisProcess, option: tuple[str, str]) -> None:
        assert option[0] in refused(call("sweep", *option), 2)


def hold_origins(database: Database) -> None:
    """Whoever makes an origin waits as long as somebody has the advisory lock 1."""
    database.run(
        "CREATE FUNCTION public.wait() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN SET LOCAL lock_timeout = 0; PERFORM pg_advisory_xact_lock_shared(1); RETURN new; END'"
    )
    database.run(
        "CREATE TRIGGER wait BEFORE INSERT ON canon.identity_origin FOR EACH ROW EXECUTE FUNCTION public.wait()"
    )


def held_backends(database: Database) -> list[dict[str, Any]]:
    return database.run("SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND wait_event = 'advisory'")


def signal_is_pending(pid: int, number: signal.Signals) -> bool:
    """Whether the process has not taken the signal yet."""
    found = re.search(r"^ShdPnd:\s*(\w+)", Path(f"/proc/{pid}/status").read_text(encoding="utf-8"), re.MULTILINE)
    assert found
    return bool(int(found[1], 16) >> (number - 1) & 1)


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


@pytest.mark.parametrize(
    "command", [("--help",), ("status",), ("sweep", "--json"), ("triggers", "status", "--json")], ids=" ".join
)
def test_a_reader_who_leaves_early_is_no_error(database: Database, command: tuple[str, ...]) -> None:
    """As `consumer status | head -1` does."""
    with started(*command, url=database.url) as process:
        assert process.stdout and process.stderr
        process.stdout.close()
        process.wait(PATIENCE_SECONDS)

        assert process.stderr.read() == ""
        assert process.returncode in (0, 141)


def test_progress_is_shown_on_a_terminal_and_only_there(database: Database) -> None:
    database.lead(matched_to=database.person())

    assert run_command("sweep", url=database.url).stderr == ""
    assert "recovering" in on_terminal("sweep", "--json", url=database.url).stdout


def test_the_daemon_logs_for_people_on_a_terminal(database: Database) -> None:
    database.run("DELETE FROM ops.cabinet_recovery_alembic_version")

    shown = on_terminal("run", url=database.url).stdout

    assert "service.started" in shown
    assert "{" not in shown


@pytest.mark.parametrize("key", ["\x03", "\x04", "n\n", "\n"], ids=["Ctrl-C", "Ctrl-D", "n", "Enter"])
def test_uninstall_that_is_not_agreed_to_ends_with_one_line_and_removes_nothing(database: Database, key: str) -> None:
    done = on_terminal("uninstall", url=database.owner_url, answer=key)

    assert done.returncode == 130
    question, *told = done.stdout.replace("^C", "").splitlines()
    assert question.startswith("Remove the service from database ")
    assert told == ["consumer: nothing was removed"]
    assert database.value("SELECT to_regclass('ops.cabinet_recovery_outbox')") is not None


def on_terminal(*arguments: str, url: str, answer: str = "") -> CompletedProcess[str]:
    """A command with what it shows on the terminal that its stderr is, where its question is given an answer."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        # A session of its own, for it is to the one of this terminal that Ctrl-C sends its signal.
        ["setsid", "--ctty", sys.executable, "-m", "consumer", *arguments],
        stdin=theirs,
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        cwd=ELSEWHERE,
        env=environment(url) | {"TERM": "xterm-256color", "COLUMNS": "100"},
    )
    os.close(theirs)
    shown = b""
    with closing(os.fdopen(ours, "rb", buffering=0)) as terminal:
        try:
            while block := terminal.read(65_536):
                shown += block
                if answer and b"]:" in shown:
                    os.write(ours, answer.encode())
                    answer = ""
        except OSError:  # Linux tells the end of a terminal as an error
            pass
    return CompletedProcess(arguments, process.wait(PATIENCE_SECONDS), shown.decode())
