"""What stands between the service and its data: a standby that takes over, a pooler."""

import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import LiteralString

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from db.embedded import SHARED_TEMPORARY, EmbeddedServer, keep_port, spawn_options
from tests.chaos.conftest import prepare
from tests.chaos.form import in_form
from tests.chaos.trial import SERVICE, WITNESS_SETTINGS, Trial, by_port, last
from tests.processes import eventually, own_server, standby_of

PGBOUNCER = Path("/usr/sbin/pgbouncer")
NORMAL_BY_SWEEPS_SECONDS = 10.0  # the sweeps are 5 s apart
needs_pgbouncer = pytest.mark.skipif(not PGBOUNCER.exists(), reason="needs Debian's package pgbouncer")


def test_a_standby_takes_over_from_a_killed_primary() -> None:
    """It is synchronous, so that whatever the engine was told to be committed is there."""
    with own_server(**WITNESS_SETTINGS) as primary:
        prepare(primary.url())
        with standby_of(primary, **WITNESS_SETTINGS) as standby:
            run(primary, "ALTER SYSTEM SET synchronous_standby_names = '*'")
            run(primary, "SELECT pg_reload_conf()")
            trial = Trial("topology: primary killed, standby promoted", either_of(primary, standby))
            with trial, trial.fault():
                primary.kill()
                run(standby, "SELECT pg_promote()")


def run(server: EmbeddedServer, statement: LiteralString) -> None:
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute(statement)


def either_of(primary: EmbeddedServer, standby: EmbeddedServer) -> str:
    one, other = conninfo_to_dict(primary.url()), conninfo_to_dict(standby.url())
    both = {name: f"{one[name]},{other[name]}" for name in ("host", "port")}
    return make_conninfo(primary.url(), **both, target_session_attrs="read-write")


class Pooler:
    """A PgBouncer in transaction mode before all databases of a server; it refuses to run as root."""

    def __init__(self, server: EmbeddedServer, folder: Path, port: int) -> None:
        self.port = port
        place = conninfo_to_dict(server.url())
        users = folder / "users"
        users.write_text(f'"{SERVICE["user"]}" ""\n')
        self._settings = folder / "pgbouncer.ini"
        self._settings.write_text(
            f"[databases]\n* = host={place['host']} port={place['port']}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {self.port}\nunix_socket_dir =\n"
            f"auth_type = trust\nauth_file = {users}\npool_mode = transaction\ndefault_pool_size = 3\n"
        )

    def start(self) -> None:
        command = [PGBOUNCER, "--quiet", self._settings]
        self._process = subprocess.Popen(command, stderr=subprocess.DEVNULL, **spawn_options())
        eventually(self._answers)

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()

    def _answers(self) -> bool:
        assert self._process.poll() is None, "PgBouncer did not start"
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
            return True
        return False


@pytest.fixture
def pooler(server: EmbeddedServer) -> Iterator[Pooler]:
    with tempfile.TemporaryDirectory(prefix="crpg-", dir=SHARED_TEMPORARY) as folder, keep_port() as keeper:
        Path(folder).chmod(0o755)
        pooler = Pooler(server, Path(folder), keeper.getsockname()[1])
        pooler.start()
        yield pooler
        pooler.stop()


def restart(pooler: Pooler) -> None:
    pooler.stop()
    last(2)
    pooler.start()


@needs_pgbouncer
def test_a_transaction_pooler_which_the_listener_goes_round(server: EmbeddedServer, url: str, pooler: Pooler) -> None:
    direct, pooled = by_port(url, server.port), by_port(url, pooler.port)
    name = "topology: PgBouncer killed, direct address for the listener"
    with Trial(name, url, service_url=pooled, listener_database_url=direct) as trial:
        for _ in range(in_form(3, 1)):
            with trial.fault():
                restart(pooler)


@needs_pgbouncer
def test_a_transaction_pooler_before_all(url: str, pooler: Pooler) -> None:
    """No notification comes through: the daemon says so once, and frequent sweeps recover everything."""
    name = "topology: PgBouncer killed, no other address"
    with Trial(name, url, service_url=by_port(url, pooler.port)) as trial:
        trial.normal_seconds = trial.late_seconds = NORMAL_BY_SWEEPS_SECONDS
        trial.is_whole_again = False
        trial.daemon.wait_for("database.lost", role="listener")
        for _ in range(in_form(3, 1)):
            with trial.fault():
                restart(pooler)
        told = [line for line in trial.daemon.log.splitlines() if "CABINET_RECOVERY_LISTENER_DATABASE_URL" in line]
        assert told
