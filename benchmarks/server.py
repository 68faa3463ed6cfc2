"""The server that is measured, and databases of the shapes that the measurements need."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from db.connect import Address
from db.embedded import EmbeddedServer
from db.migrate import migrate
from tests.database import Database

# As durable as a production server: NOTIFY's lock is held while the commit is flushed.
SETTINGS = {
    "max_wal_size": "4GB",
    "shared_buffers": "512MB",
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
        name = sql.Identifier(f"cabinet_recovery_bench_{os.getpid()}_{time.monotonic_ns()}")
        url = make_conninfo(self._admin_url, dbname=name.as_string().strip('"'))
        with psycopg.connect(self._admin_url, autocommit=True) as admin:
            admin.execute(sql.SQL("CREATE DATABASE {}").format(name))
            migrate(Address.parse(url))
            database = Database(url)
            try:
                yield database
            finally:
                database.close()
                admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))

    def version(self) -> str:
        with psycopg.connect(self._admin_url) as admin:
            return f"PostgreSQL {admin.info.server_version // 10000}"
