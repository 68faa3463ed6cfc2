"""The server that is measured, and databases of the shapes that the measurements need."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from db.connect import Address
from db.embedded import EmbeddedServer
from db.migrate import migrate
from tests.database import Database

# As on a production server, not as on the tests': durable, for NOTIFY's lock is held while the commit is flushed, and
# with the quarter of memory as shared buffers that PostgreSQL's documentation begins with.
SETTINGS = {
    "fsync": "on",
    "full_page_writes": "on",
    "dynamic_shared_memory_type": "posix",
    "max_wal_size": "4GB",
    "shared_buffers": f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') // 4 >> 20}MB",
    "max_connections": "100",
}


@contextmanager
def server_url() -> Iterator[str]:
    """BENCH_DATABASE_URL, whose role may create databases, or else the embedded server."""
    if url := os.environ.get("BENCH_DATABASE_URL"):
        yield url
    else:
        with EmbeddedServer(settings=SETTINGS) as server:
            yield server.url()


class Databases:
    """Databases on the measured server, each migrated and used for one measurement."""

    def __init__(self, admin_url: str) -> None:
        self._admin_url = admin_url

    @contextmanager
    def fresh(self) -> Iterator[Database]:
        """A migrated database without a row."""
        with self._created(sql.SQL("CREATE DATABASE {}")) as database:
            migrate(Address.parse(database.url))
            yield database

    @contextmanager
    def copy(self, loaded: Database) -> Iterator[Database]:
        """A database like the one that is loaded, which is closed to be copied; its files are all that is written."""
        loaded.close()
        template = sql.Identifier(conninfo_to_dict(loaded.owner_url)["dbname"])
        create = sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy")
        with self._created(create, template) as database:
            yield database

    @contextmanager
    def _created(self, create: sql.SQL, *template: sql.Identifier) -> Iterator[Database]:
        name = sql.Identifier(f"cabinet_recovery_bench_{os.getpid()}_{time.monotonic_ns()}")
        url = make_conninfo(self._admin_url, dbname=name.as_string().strip('"'))
        with psycopg.connect(self._admin_url, autocommit=True) as admin:
            admin.execute(create.format(name, *template))
            database = Database(url)
            try:
                yield database
            finally:
                database.close()
                admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))

    def version(self) -> str:
        with psycopg.connect(self._admin_url) as admin:
            return f"PostgreSQL {admin.info.server_version // 10000}"
