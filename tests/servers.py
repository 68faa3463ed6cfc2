"""Which PostgreSQL server the tests use, and how each test gets a database of its own from it."""

import itertools
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import LiteralString, Self

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from db.connect import Address
from db.embedded import DISPOSABLE_SETTINGS, SHARED_TEMPORARY, EmbeddedServer
from db.migrate import migrate

MEMORY = Path("/dev/shm")
MEMORY_NEEDED_BYTES = 2 * 1024**3  # for every worker's databases, and far more than they use


@contextmanager
def test_server() -> Iterator[str]:
    """Yield the conninfo of a role that may create databases and roles on the server of this test session.

    `TEST_DATABASE_URL` names a server that runs already, shared by all workers of pytest-xdist;
    `TEST_POSTGRES=docker` starts a container of `TEST_POSTGRES_IMAGE` (postgres:17); otherwise it is the
    embedded server. Of these two every worker starts its own.
    """
    if url := os.environ.get("TEST_DATABASE_URL"):
        yield url
    elif os.environ.get("TEST_POSTGRES") == "docker":
        with docker_server(os.environ.get("TEST_POSTGRES_IMAGE", "postgres:17")) as url:
            yield url
    else:
        with embedded_server() as url:
            yield url


@contextmanager
def docker_server(image: str) -> Iterator[str]:
    from testcontainers.community.postgres import PostgresContainer  # slow, and seldom needed

    # Every test makes a database; on disk that would be most of its time.
    container = PostgresContainer(image, driver=None).with_command("postgres -c fsync=off -c max_connections=200")
    with container:
        yield container.get_connection_url()


@contextmanager
def embedded_server() -> Iterator[str]:
    """Keep the data in memory where there is room: a database is 300 files, which a disk can take 0.3 s to make."""
    in_memory = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > MEMORY_NEEDED_BYTES
    with tempfile.TemporaryDirectory(prefix="crpg-", dir=MEMORY if in_memory else SHARED_TEMPORARY) as folder:
        Path(folder).chmod(0o755)  # the server's account may be another one
        with EmbeddedServer(Path(folder) / "data", settings=DISPOSABLE_SETTINGS) as server:
            yield server.url()


@contextmanager
def ascii_database(admin_conninfo: str) -> Iterator[str]:
    """The conninfo of a migrated database in SQL_ASCII, which takes any bytes for text."""
    name = f"cabinet_recovery_ascii_{secrets.token_hex(4)}"
    with psycopg.connect(admin_conninfo, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE_PROVIDER libc LOCALE 'C'")
        try:
            url = make_conninfo(admin_conninfo, dbname=name, client_encoding="UTF8")
            migrate(Address.parse(url))
            yield url
        finally:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


class TemplateDatabase:
    """A prepared database, made once, and the fresh copies that tests take of it.

    The names are unique to this object, so that workers and runs can share a server. Leaving the `with` block
    drops the template; whoever takes a copy drops it.
    """

    def __init__(self, admin_conninfo: str, prepare: Callable[[str], None]) -> None:
        worker = os.environ.get("PYTEST_XDIST_WORKER", "main")
        self._admin_conninfo = admin_conninfo
        self._prepare = prepare
        # The process id alone is not unique where containers share a server, nor after a crashed run.
        self._name = f"cabinet_recovery_{worker}_{os.getpid()}_{secrets.token_hex(3)}"
        self._numbers = itertools.count(1)

    def __enter__(self) -> Self:
        """Create and prepare the template; then shut it, since one connection to it would fail every copy."""
        self._run("CREATE DATABASE {}", self._name)
        self._prepare(self._conninfo(self._name))
        self._run("ALTER DATABASE {} ALLOW_CONNECTIONS false", self._name)
        return self

    def __exit__(self, *_: object) -> None:
        self.drop(self._conninfo(self._name))

    def fresh(self) -> str:
        """Return the conninfo of a new copy of the template."""
        name = f"{self._name}_{next(self._numbers)}"
        self._run("CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY", name, self._name)
        return self._conninfo(name)

    def drop(self, conninfo: str) -> None:
        """Drop what `fresh()` returned, whoever is still connected to it."""
        self._run("DROP DATABASE IF EXISTS {} WITH (FORCE)", str(conninfo_to_dict(conninfo)["dbname"]))

    def _conninfo(self, name: str) -> str:
        return make_conninfo(self._admin_conninfo, dbname=name)

    def _run(self, statement: LiteralString, *names: str) -> None:
        with psycopg.connect(self._admin_conninfo, autocommit=True) as connection:
            connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))
