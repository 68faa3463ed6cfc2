"""Whatever somebody types, sets or notifies: one clear line at most, and nothing is written, revealed or stopped."""

import contextlib
import string
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import fields
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from unittest.mock import patch

import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from psycopg.conninfo import make_conninfo

from consumer import cli
from consumer.errors import ExitCode, exit_code_of, one_line
from consumer.proof import Proof
from consumer.settings import Settings, variable_of
from tests.acceptance.test_liveness import proof_channels
from tests.database import Database
from tests.engine import held_handler
from tests.logins import PASSWORD
from tests.processes import Daemon, eventually
from tests.servers import ascii_database

QUIET = {"log_level": "debug", "sweep_interval_seconds": "3600"}
MOST_BYTES = 7_999
VARIABLES = [variable_of(setting) for setting in fields(Settings)]
VARIABLES += ["DATABASE_URL_FILE", "CABINET_RECOVERY_LISTENER_DATABASE_URL_FILE"]

# What the server takes for a text.
payloads = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")).filter(
    lambda text: len(text.encode()) <= MOST_BYTES
)
# What a shell can hand over, bytes that are no text among it; and what it cannot, a NUL.
arguments = st.text(st.characters(exclude_categories=[])) | st.from_regex(r"\A--?[a-z]{0,8}=?.{0,5}\Z")
awkward = ["", "\0", "a\nb", "\udcff", "-", "--", "--all", "--json", "x" * 100_000, "'; DROP TABLE x; --", "%s", "{}"]


@pytest.fixture
def stranger(database: Database) -> Iterator[psycopg.Connection]:
    """A role that can connect, and that is all."""
    name = f"stranger_{database.value('SELECT oid FROM pg_database WHERE datname = current_database()')}"
    database.connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{PASSWORD}'")
    with closing(psycopg.connect(make_conninfo(database.owner_url, user=name, password=PASSWORD))) as connection:
        connection.autocommit = True
        yield connection
    database.connection.execute(f"DROP ROLE {name}")


def notify(connection: psycopg.Connection, channel: str, *texts: str) -> None:
    connection.execute("SELECT pg_notify(%s, text) FROM unnest(%s::text[]) AS text", (channel, list(texts)))


class TestNotifications:
    def test_of_any_text_change_nothing_and_stop_nothing(
        self, database: Database, stranger: psycopg.Connection
    ) -> None:
        lead = database.lead()
        before = database.row_versions()
        sent = 0
        with Daemon(database.url, **QUIET) as daemon:
            daemon.wait_for("listener.proved")

            @settings(max_examples=60, deadline=None)
            @given(st.lists(payloads.filter(bool), min_size=1, max_size=20, unique=True))
            @example(["x" * MOST_BYTES, lead, "\x01", "\u202e", "ñ" * 3_999])
            def send(texts: list[str]) -> None:
                nonlocal sent
                notify(stranger, "cabinet_recovery", *texts)
                sent += len(texts)

            send()
            assert database.row_versions() == before
            database.job(lead, database.person())
            daemon.wait_for_leads([lead])
            assert daemon.stop() == 0
            assert daemon.plain_lines == []
            (stopped,) = daemon.events("service.stopped")
            assert stopped["notifications"] == sent + 1

    def test_in_floods_neither_write_nor_reveal_nor_stop_anything(
        self, database: Database, stranger: psycopg.Connection
    ) -> None:
        known, held = database.lead(), database.lead(matched_to=database.person())
        before = database.row_versions()
        with held_handler(database, held) as holder, Daemon(database.url, **QUIET) as daemon:
            daemon.wait_for("listener.proved")
            flooded_until = time.monotonic() + 3
            while time.monotonic() < flooded_until:
                notify(stranger, "cabinet_recovery", *(f"junk-{number}" for number in range(2_000)), known, "")
                notify(stranger, "cabinet_recovery_proof_0123456789abcdef", "0" * 16)
            # Each sweep looks at the lead that is held, and says so.
            daemon.wait_for("sweep.finished", what="events", count=3)
            swept = [
                datetime.fromisoformat(told["timestamp"]) for told in daemon.events("sweep.finished", what="events")
            ]
            assert min(later - earlier for earlier, later in pairwise(swept)) > timedelta(seconds=0.9)
            assert {table: rows for table, rows in database.row_versions().items() if rows != before[table]} == {}
            holder.rollback()

            daemon.wait_for_leads([held])
            database.job(known, database.person())
            daemon.wait_for_leads([known])
            assert daemon.stop() == 0
            assert daemon.events("database.lost") == []

    def test_that_are_no_text_are_dropped_and_counted(self, server_url: str) -> None:
        with ascii_database(server_url) as url, closing(Database(url)) as database, Daemon(url, **QUIET) as daemon:
            daemon.wait_for("listener.proved")
            database.connection.execute(b"SELECT pg_notify('cabinet_recovery', E'\\xff\\xfe' || n) "
                                        b"FROM generate_series(1, 5) AS n")  # fmt: skip
            lead = database.lead(matched_to=database.person())
            daemon.wait_for_leads([lead])
            assert daemon.stop() == 0
            (stopped,) = daemon.events("service.stopped")
            assert (stopped["refused"], stopped["notifications"]) == (5, 6)


class TestTheChannelOfTheProof:
    """Nobody but the daemon can vouch for its listener: not without the channel, and not with it either."""

    def test_is_of_64_random_bits_and_each_daemon_s_own(self, database: Database) -> None:
        with Daemon(database.url, **QUIET) as one, Daemon(database.url, **QUIET) as other:
            one.wait_for("listener.proved")
            other.wait_for("listener.proved")
            channels = proof_channels(database)
        assert len(set(channels)) == 2
        channels += [Proof(10, 5, lambda: None).channel for _ in range(500)]

        digits = [channel.removeprefix("cabinet_recovery_proof_") for channel in channels]

        assert {len(each) for each in digits} == {64 // 4}
        assert [set(place) for place in zip(*digits, strict=True)] == [set("0123456789abcdef")] * 16

    def test_is_not_to_be_read_by_who_can_only_connect(self, database: Database, stranger: psycopg.Connection) -> None:
        with Daemon(database.url, **QUIET) as daemon:
            daemon.wait_for("listener.proved")
            (channel,) = proof_channels(database)
            everything = "SELECT pid, query, activity::text FROM pg_stat_activity AS activity WHERE datname = %s"
            seen = stranger.execute(everything, [stranger.info.dbname]).fetchall()

            assert channel in str(database.run(everything, stranger.info.dbname)), "it is there for a superuser"
            others = [row for row in seen if row[0] != stranger.info.backend_pid]
            assert {query for _, query, _ in others} == {"<insufficient privilege>"}
            assert "proof" not in str(others)
            assert stranger.execute("SELECT * FROM pg_listening_channels()").fetchall() == []

    def test_takes_no_nonce_for_a_proof_but_the_one_that_was_sent_last(self, database: Database) -> None:
        often = {**QUIET, "proof_interval_seconds": "1", "proof_timeout_seconds": "1"}
        # The prober loses its connection as well, perhaps first; of an outage that goes on each role tells in time.
        often["outage_log_interval_seconds"] = "1"
        with Daemon(database.url, **often) as daemon, psycopg.connect(database.owner_url) as holder:
            daemon.wait_for("listener.proved")
            (channel,) = proof_channels(database)
            database.connection.execute(f"LISTEN {channel}")
            (old,) = database.connection.notifies(timeout=20, stop_after=1)
            database.run("UNLISTEN *")
            known, proved = len(lost(daemon)), len(daemon.events("listener.proved"))
            # Now no nonce can be sent: the statement that would waits here.
            holder.execute("LOCK TABLE ops.cabinet_recovery_settings IN ACCESS EXCLUSIVE MODE")
            guesses = (old.payload, "", "0" * 16, "x" * MOST_BYTES)

            def guess() -> bool:
                notify(database.connection, channel, *guesses)
                database.run("SELECT pg_sleep(0.1)")  # a flood would only keep the daemon from its clock
                return len(lost(daemon)) > known

            eventually(guess)
            assert "came back to the listener" in lost(daemon)[known]
            holder.rollback()
            daemon.wait_for("listener.proved", count=proved + 1)
            assert daemon.stop() == 0


def lost(daemon: Daemon) -> list[str]:
    return [told["reason"] for told in daemon.events("database.lost", role="listener")]


def run_main(*words: str, **environment: str) -> tuple[int, str]:
    """What `consumer` says and how it ends, in this process: a process for each of so many would take minutes."""
    with (
        tempfile.TemporaryFile("w+", errors="backslashreplace") as said,
        patch("sys.argv", ["consumer", *words]),
        patch.dict("os.environ", environment, clear=True),
        contextlib.redirect_stdout(said),
        contextlib.redirect_stderr(said),
    ):
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said.seek(0)
        return int(ended.value.code or 0), said.read()


@pytest.mark.parametrize("command", [["reprocess"], ["parked", "show"], ["parked", "retry"], ["sweep", "--limit"]])
def test_any_arguments_end_in_a_documented_way(database: Database, command: list[str]) -> None:
    before = database.row_versions()

    @settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.lists(arguments | st.sampled_from(awkward), max_size=3))
    @example([awkward[1]])
    @example([awkward[3]])
    @example(["--", "-x"])
    @example(["x" * 100_000])
    def call(words: list[str]) -> None:
        status, said = run_main(*command, *words, DATABASE_URL=database.url)
        assert status in {ExitCode.DONE, ExitCode.USAGE, ExitCode.LEADS}, said
        assert "Traceback" not in said

    call()
    assert database.row_versions() == before


@pytest.mark.parametrize("variable", VARIABLES)
def test_any_value_of_a_setting_is_taken_or_refused_in_a_line(variable: str, tmp_path: Path) -> None:
    named = tmp_path / "named"

    @settings(max_examples=60, deadline=None)
    @given(
        st.text() | st.text(string.printable) | arguments | st.builds(lambda text: f"postgresql://{text}", st.text())
    )
    @example("\0")
    @example("postgresql://a:b@c:1/d?sslmode=\udcff")
    @example(str(named.parent))
    def read(text: str) -> None:
        environment, told = {variable: text}, list[tuple[ExitCode, str]]()
        if not variable.startswith("DATABASE_URL"):
            environment["DATABASE_URL"] = "postgresql://host/database"
        try:
            Settings.from_environment(environment).current_log_level()
        except Exception as error:  # noqa: BLE001
            told.append((exit_code_of(error), one_line(error)))
        assert all(code == ExitCode.USAGE and len(line.splitlines()) == 1 for code, line in told), told

    read()


@pytest.mark.parametrize(
    "content", [b"", b"\n \n", b"\xff\xfe", b"\0", b"nonsense", b"postgresql://u:Geheim77@h:port/d"]
)
def test_a_file_that_holds_no_address_is_refused_without_a_word_of_it(tmp_path: Path, content: bytes) -> None:
    named = tmp_path / "address"
    named.write_bytes(content)

    status, said = run_main("sweep", DATABASE_URL_FILE=str(named))

    assert status == ExitCode.USAGE
    assert said.count("\n") == 1 and "DATABASE_URL_FILE" in said
    assert "Geheim77" not in said
