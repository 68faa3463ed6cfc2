from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config

from tests.database import Database
from tests.logins import Login, service_login
from tests.servers import TemplateDatabase, test_server

PROJECT_FILE = Path(__file__).parents[1] / "pyproject.toml"


def migrate(conninfo: str) -> None:
    command.upgrade(Config(toml_file=PROJECT_FILE, attributes={"url": conninfo}), "head")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what waits for minutes, under a systemd: at the end, all others would wait for it."""
    items.sort(key=lambda item: item.get_closest_marker("systemd") is None)


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    """A role that may create databases and roles; ephemeral, unless TEST_DATABASE_URL names the server."""
    with test_server() as url:
        yield url


@pytest.fixture(scope="session")
def login(server_url: str) -> Iterator[Login]:
    """Who the code under test is, in the databases of `template`: the service's rights, and no others."""
    with service_login(server_url) as found:
        yield found


@pytest.fixture(scope="session")
def template(server_url: str, login: Login) -> Iterator[TemplateDatabase]:
    """The migrated schema and the roles' rights, ready to be copied; dropped after the session."""

    def prepare(conninfo: str) -> None:
        migrate(conninfo)
        login.let_in(conninfo)

    with TemplateDatabase(server_url, prepare) as database:
        yield database


@pytest.fixture
def database(template: TemplateDatabase, login: Login) -> Iterator[Database]:
    """The host's database of one test, in the words of the tests; dropped after it, whoever is still connected."""
    conninfo = template.fresh()
    found = Database(conninfo, login.conninfo(conninfo))
    yield found
    found.close()
    template.drop(conninfo)
