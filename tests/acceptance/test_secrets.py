"""A password is in no log, message or process list, whatever form the address has and however it goes wrong."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict

from db.embedded import EmbeddedServer
from tests.database import Database
from tests.processes import Daemon, own_server, run_command

SECRET = "Geheim77"
FORMS = ("URL", "DSN", "passfile", "file")


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedServer]:
    """It asks for a password, and knows another one."""
    with own_server() as found:
        yield found


def variables(form: str, port: int, folder: Path) -> dict[str, str]:
    url = f"postgresql://postgres:{SECRET}@127.0.0.1:{port}/postgres"
    if form == "file":
        (folder / "address").write_text(f"{url}\n")
        return {"DATABASE_URL_FILE": str(folder / "address")}
    dsn = f"host=127.0.0.1 port={port} user=postgres dbname=postgres"
    if form == "passfile":
        (folder / "passwords").write_text(f"*:*:*:*:{SECRET}\n")
        (folder / "passwords").chmod(0o600)
        return {"DATABASE_URL": f"{dsn} passfile={folder}/passwords"}
    return {"DATABASE_URL": url if form == "URL" else f"{dsn} password={SECRET}"}


@pytest.mark.parametrize("form", FORMS)
def test_a_wrong_password_is_repeated_by_nobody(server: EmbeddedServer, tmp_path: Path, form: str) -> None:
    with Daemon(None, variables(form, server.port, tmp_path), log_level="debug") as daemon:
        command_line = Path(f"/proc/{daemon.process.pid}/cmdline").read_bytes().decode()

        assert daemon.end() == 4
        assert "authentication failed" in daemon.log
        assert SECRET not in daemon.log + command_line


@pytest.mark.slow
@pytest.mark.parametrize("command", [("sweep",), ("status",), ("migrate",), ("grants", "--apply"), ("parked", "list")])
def test_no_command_repeats_it(server: EmbeddedServer, command: tuple[str, ...]) -> None:
    url = f"postgresql://postgres:{SECRET}@127.0.0.1:{server.port}/postgres"

    done = run_command(*command, url=url, log_level="debug")

    assert done.returncode == 4
    assert done.stderr.count("\n") == 1 and "authentication failed" in done.stderr
    assert SECRET not in done.stdout + done.stderr


def test_an_address_in_a_file_is_reread_for_each_connection(database: Database, tmp_path: Path) -> None:
    named = tmp_path / "address"
    named.write_text(f"{database.url}\n")
    settings = {"log_level": "debug", "reconnect_max_seconds": "1", "outage_log_interval_seconds": "1"}
    with Daemon(None, {"DATABASE_URL_FILE": str(named)}, **settings) as daemon:
        daemon.wait_for("listener.proved")
        named.write_text("")
        end_connections(database)
        daemon.wait_for("database.lost", reason=f"DATABASE_URL_FILE: {named} is empty")
        named.write_text(f"{database.url}\n")
        daemon.wait_for("database.regained")
        lead = database.lead(matched_to=database.person())
        daemon.wait_for_leads([lead])
        assert daemon.stop() == 0


def end_connections(database: Database) -> None:
    user = str(conninfo_to_dict(database.url)["user"])
    database.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", user)


@pytest.mark.parametrize("variable", ["DATABASE_URL", "CABINET_RECOVERY_LISTENER_DATABASE_URL"])
def test_both_an_address_and_a_file_are_refused(database: Database, variable: str) -> None:
    given = {"DATABASE_URL": database.url, variable: database.url, f"{variable}_FILE": "/nowhere"}
    with Daemon(None, given) as daemon:
        assert daemon.end() == 2
        assert daemon.plain_lines == [f"consumer: both {variable} and {variable}_FILE are set: give one of them"]


def test_a_file_that_cannot_be_read_is_told_of() -> None:
    with Daemon(None, {"DATABASE_URL_FILE": "/nowhere/address"}) as daemon:
        assert daemon.end() == 2
        (line,) = daemon.plain_lines
        assert line == "consumer: DATABASE_URL_FILE: /nowhere/address cannot be read: No such file or directory"
