"""What the acceptance tests of the commands share: a command line, and a server that asks for a password."""

from collections.abc import Iterator

import psycopg
import pytest
import structlog

from db.connect import Address
from db.embedded import EmbeddedServer
from db.migrate import migrate
from tests.processes import (
    InThisProcess,
    over_tcp,
    own_server,
)


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
