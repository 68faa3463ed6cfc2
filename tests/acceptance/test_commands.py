"""The commands as operators and their scripts meet them: their help, and what they say on a terminal or a pipe."""

import os
import pty
import re
import shlex
import subprocess
import sys
from contextlib import closing
from dataclasses import fields
from pathlib import Path

import pytest

from consumer.settings import Settings, variable_of
from tests.database import Database
from tests.processes import (
    ELSEWHERE,
    PATIENCE_SECONDS,
    InThisProcess,
    environment,
    refused,
    run_command,
    started,
)

COMMANDS = (
    *(("run",), ("sweep",), ("reprocess",), ("status",), ("migrate",), ("demo",), ("triggers",), ("uninstall",)),
    *(("triggers", "enable"), ("triggers", "disable"), ("triggers", "status")),
    *(("parked",), ("parked", "list"), ("parked", "show"), ("parked", "retry")),
    *(("impact",), ("why",), ("doctor",)),
)


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
        assert max(map(len, done.stdout.splitlines())) <= 80
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


def test_nothing_that_a_table_holds_is_obeyed_by_the_terminal(call: InThisProcess, database: Database) -> None:
    """Whoever writes a lead's id, or the message of a host's trigger, does not write to the operator's terminal."""
    person = database.person()
    database.lead("holder\x1b[31m", matched_to=person)
    database.sweep()
    held, failing = (
        database.lead("held", matched_to=person),
        database.lead("fails\x1b[2J", matched_to=database.person()),
    )
    database.run(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION E'no\\x1b[2J\\nno'; END$$"
    )
    database.run("CREATE TRIGGER refuse BEFORE INSERT ON canon.identity_links FOR EACH ROW EXECUTE FUNCTION refuse()")

    for command in (
        *(["sweep"], ["reprocess", held, failing]),
        *(["parked", "list"], ["parked", "show", failing], ["parked", "retry", "--all"]),
    ):
        done = call(*command, DATABASE_URL=database.url, CABINET_RECOVERY_MAX_ATTEMPTS="1")

        assert done.stdout, command
        assert "\x1b" not in done.stdout + done.stderr, command


@pytest.mark.parametrize("stream", ["<&-", ">&-", "2>&-", "2>/dev/full"])
def test_a_stream_that_is_not_there_is_no_error(database: Database, stream: str) -> None:
    command = f"{shlex.quote(sys.executable)} -m consumer sweep {stream}"

    done = subprocess.run(command, shell=True, check=False, capture_output=True, env=environment(database.url))

    assert (done.returncode, done.stderr) == (0, b"")


def test_the_status_is_told_where_nothing_can_be_said() -> None:
    command = f"{shlex.quote(sys.executable)} -m consumer status 2>/dev/full"

    assert subprocess.run(command, shell=True, check=False, env=environment(None)).returncode == 2


@pytest.mark.parametrize("style", ["SQL,DMY", "German"])
@pytest.mark.parametrize("command", ["why", "impact", "doctor"])
def test_the_server_s_date_style_does_not_matter(
    call: InThisProcess, database: Database, command: str, style: str
) -> None:
    lead = database.lead(matched_to=database.person())
    database.sweep()

    done = call(
        command, *([lead] if command == "why" else []), DATABASE_URL=f"{database.url} options='-c datestyle={style}'"
    )

    assert (done.returncode, done.stderr) == (0, "")


def test_progress_is_shown_on_a_terminal_and_only_there(database: Database) -> None:
    database.lead(matched_to=database.person())

    assert run_command("sweep", url=database.url).stderr == ""
    assert "recovering" in on_terminal("sweep", "--json", url=database.url).stdout


def test_a_narrow_terminal_cuts_neither_a_bucket_nor_a_key(call: InThisProcess, database: Database) -> None:
    person = database.person()
    lead = database.lead(matched_to=person)
    narrow = {"DATABASE_URL": database.url, "FORCE_COLOR": "1", "COLUMNS": "80"}

    shown = [call(*command, **narrow).stdout for command in (("impact",), ("reprocess", lead, "--dry-run"))]

    assert "recovered_within_14d_but_no_claim" in shown[0]
    assert all("…" not in one for one in shown)


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


def on_terminal(*arguments: str, url: str, answer: str = "") -> subprocess.CompletedProcess[str]:
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
    return subprocess.CompletedProcess(arguments, process.wait(PATIENCE_SECONDS), shown.decode())
