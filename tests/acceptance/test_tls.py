"""`sslmode=verify-full` against a server with certificates of a test's own CA: only the right one is talked to."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from db.connect import Address
from db.embedded import SHARED_TEMPORARY, keep_port
from db.migrate import migrate
from tests.processes import Daemon, own_server, run_command

SERVERS = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))
SCRIPT = Path(__file__).parents[2] / ".ci" / "debian-postgres"
PASSWORD = "Geheim77"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not SERVERS or shutil.which("openssl") is None, reason="needs Debian's PostgreSQL and openssl"),
]


@dataclass(frozen=True)
class Secured:
    """A server that speaks TLS as `localhost`, and the certificates of its CA and of another."""

    port: int
    folder: Path

    def url(self, host: str = "localhost", authority: str = "ca") -> str:
        options = f"sslmode=verify-full&sslrootcert={self.folder}/{authority}.crt"
        return f"postgresql://postgres:{PASSWORD}@{host}:{self.port}/postgres?{options}"


def openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, cwd=folder)


def make_certificates(folder: Path) -> None:
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    for name in ("ca", "other"):
        openssl(folder, "req", "-x509", *key, "-days", "2", "-subj", f"/CN={name}", "-keyout", f"{name}.key",
                "-out", f"{name}.crt")  # fmt: skip
    openssl(folder, "req", *key, "-subj", "/CN=localhost", "-keyout", "server.key", "-out", "server.csr")
    (folder / "names").write_text("subjectAltName=DNS:localhost")
    openssl(folder, "x509", "-req", "-in", "server.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial",
            "-days", "2", "-extfile", "names", "-out", "server.crt")  # fmt: skip


@pytest.fixture(scope="module")
def secured() -> Iterator[Secured]:
    with tempfile.TemporaryDirectory(prefix="crtls-", dir=SHARED_TEMPORARY) as name:
        folder, home = Path(name), Path(name) / "server"
        folder.chmod(0o755)
        make_certificates(folder)
        url = subprocess.run([SCRIPT, "start", home], check=True, capture_output=True, text=True).stdout.strip()
        try:
            with keep_port() as keeper:
                port = keeper.getsockname()[1]
                switch_on(url, home, folder, port)
                yield Secured(port, folder)
        finally:
            subprocess.run([SCRIPT, "stop", home], check=True)


def switch_on(url: str, home: Path, folder: Path, port: int) -> None:
    migrate(Address.parse(url))
    data = home / "data"
    for file in ("server.crt", "server.key"):
        shutil.copy(folder / file, data)
        os.chown(data / file, data.stat().st_uid, data.stat().st_gid)
        (data / file).chmod(0o600)
    (data / "pg_hba.conf").write_text("local all all trust\nhostssl all all all scram-sha-256\n")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"ALTER ROLE postgres PASSWORD '{PASSWORD}'")
        for setting in ("ssl = on", "listen_addresses = '127.0.0.1'", f"port = {port}"):
            connection.execute(f"ALTER SYSTEM SET {setting}")
    restart = [SERVERS[-1].parent / "pg_ctl", "restart", "-D", data, "-l", home / "log", "-w", "-s"]
    owner = {"user": data.stat().st_uid, "group": data.stat().st_gid} if os.geteuid() == 0 else {}
    subprocess.run(restart, check=True, stdin=subprocess.DEVNULL, cwd="/", **owner)  # type: ignore[call-overload]


def test_the_right_server_is_worked_with(secured: Secured) -> None:
    done = run_command("sweep", "--json", url=secured.url())

    assert (done.returncode, done.stderr) == (0, "")
    with Daemon(secured.url()) as daemon:
        daemon.wait_for("listener.proved")
        assert daemon.stop() == 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"authority": "other"}, "certificate verify failed"),
        ({"host": "127.0.0.1"}, "does not match host name"),
        ({"authority": "nowhere"}, "root certificate file"),
    ],
)
def test_any_other_is_refused_for_good(secured: Secured, changes: dict[str, str], said: str) -> None:
    with Daemon(secured.url(**changes)) as daemon:
        for command in ("sweep", "status"):
            refused(run_command(command, url=secured.url(**changes)), said)

        assert daemon.end() == 4
        assert said in daemon.plain_lines[-1]
        assert PASSWORD not in daemon.log


def test_a_server_without_tls_is_refused(secured: Secured) -> None:
    with own_server() as plain:
        refused(run_command("sweep", url=Secured(plain.port, secured.folder).url("127.0.0.1")), "does not support SSL")


def refused(done: subprocess.CompletedProcess[str], said: str) -> None:
    assert done.returncode == 4
    assert done.stderr.count("\n") == 1 and said in done.stderr
    assert PASSWORD not in done.stderr
