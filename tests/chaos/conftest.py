"""The servers that faults strike, and the table of all that they came to, printed at the end."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from db.connect import Address
from db.embedded import EmbeddedServer
from db.migrate import migrate
from db.roles import Roles, apply
from tests.chaos.report import ROWS_FOLDER, TABLE_FILE, rows_of, table, write_into
from tests.chaos.trial import SERVICE, WITNESS_SETTINGS
from tests.processes import own_server
from tests.servers import TemplateDatabase

HERE = Path(__file__).parent
TIMEOUT_SECONDS = 400


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        folder = tempfile.TemporaryDirectory(prefix="chaos-")
        config.add_cleanup(folder.cleanup)
        os.environ[ROWS_FOLDER] = folder.name


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.chaos)
            item.add_marker(pytest.mark.timeout(TIMEOUT_SECONDS), append=True)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if rows := rows_of(Path(os.environ[ROWS_FOLDER])):
        terminalreporter.section("what the faults came to")
        for line in table(rows):
            terminalreporter.write_line(line)
        if document := os.environ.get(TABLE_FILE):
            write_into(Path(document), rows)


def prepare(url: str) -> None:
    """Bring the schema, the service's own role and the witness."""
    migrate(Address.parse(url))
    apply(Roles(), Address.parse(url))
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute((HERE / "witness.sql").read_text())
        role = sql.Identifier(SERVICE["user"])
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(role, SERVICE["password"]))
        connection.execute(sql.SQL("GRANT cabinet_recovery_service TO {}").format(role))


@pytest.fixture(scope="session")
def server() -> Iterator[EmbeddedServer]:
    """A server that tests may stop, kill and start; it runs again before the next one."""
    with own_server(**WITNESS_SETTINGS) as server:
        yield server


@pytest.fixture(scope="session")
def migrated(server: EmbeddedServer) -> Iterator[TemplateDatabase]:
    with TemplateDatabase(server.url(), prepare) as template:
        yield template
        server.start()


@pytest.fixture
def url(server: EmbeddedServer, migrated: TemplateDatabase) -> Iterator[str]:
    """A database of one test, by way of the server's socket."""
    conninfo = migrated.fresh()
    yield conninfo
    server.start()
    migrated.drop(conninfo)
