from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config

from tests.database import Database
from tests.servers import TemplateDatabase, test_server

PROJECT_FILE = Path(__file__).parents[1] / "pyproject.toml"


def migrate(conninfo: str) -> None:
    command.upgrade(Config(toml_file=PROJECT_FILE, attributes={"url": conninfo}), "head")


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    """A role that may create databases and roles; ephemeral, unless TEST_DATABASE_URL names the server."""
    with test_server() as url:
        yield url


@pytest.fixture(scope="session")
def template(server_url: str) -> Iterator[TemplateDatabase]:
    """The migrated schema, ready to be copied; dropped after the session."""
    with TemplateDatabase(server_url, prepare=migrate) as database:
        yield database


@pytest.fixture
def database_url(template: TemplateDatabase) -> Iterator[str]:
    """A migrated database for one test, dropped after it, whoever is still connected."""
    conninfo = template.fresh()
    yield conninfo
    template.drop(conninfo)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """The host's database in the words of the tests."""
    found = Database(database_url)
    yield found
    found.close()
