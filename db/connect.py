"""Connections: addresses of every shape, and refusals told apart."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, LiteralString
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import Conninfo
from psycopg.rows import dict_row

from db.liveness import Heartbeat, deadline

SCHEMA_REVISION = "0012"  # the migration that this code needs, or any later one

FILE_LIMIT = 65_536  # characters of an address

# What libpq itself refuses, before it looks for a server.
OPTION_REFUSED = re.compile(
    r'^connection is bad: (?:.*connection option "(\w+)"|definition of (service)|invalid (\w+) (?:value|number))'
)
# Refusals come without an SQLSTATE: libpq has only the server's words for them, English or Spanish here. Words that
# are not known are taken for an absence, and waited for.
ACCESS_REFUSED = re.compile(
    r"authentication failed|autenti\w+ .*falló|no password supplied|pg_hba\.conf"
    r"|role .* (does not exist|is not permitted)|no existe el rol"
    r'|database ".*" does not exist|no existe la base de datos|permission denied for database'
    # Who cannot prove who he is will not learn it by our waiting; what he cannot read of ours we cannot either.
    r"|certificate verify failed|server certificate for .* does not match|server does not support SSL"
    r"|root certificate file|could not (?:load|read|get) .*certificate|(?:private key|certificate) file"
)


# Of several hosts none was found that takes writes: the primary is gone, and its standby is not promoted yet.
READ_ONLY = re.compile(r"session is read-only|server is in hot standby mode")


class DatabaseError(Exception):
    """The database cannot be worked with; the text says in one line why and what to do."""


class InvalidAddress(DatabaseError):
    """The address is no libpq URL or keyword DSN, or has an option that libpq does not take."""


class Unreachable(DatabaseError):
    """No server answers at the address, or it went away: worth waiting for."""


class ReadOnlyServer(DatabaseError):
    """A standby, or a server told to take no writes: worth waiting for, until it is promoted or told otherwise."""


class AccessRefused(DatabaseError):
    """The server knows neither this role, password nor database: waiting does not mend it."""


class SchemaMismatch(DatabaseError):
    """The service's schema is missing, or not of this code's time: waiting does not mend it."""


class TableBusy(DatabaseError):
    """A host's table stayed locked by somebody else; nothing is half done, and trying again goes on."""


class StillInUse(DatabaseError):
    """Somebody works with what was to be removed; the text says who. Nothing was changed."""


@dataclass(frozen=True)
class Address:
    """Where the database is, and what variable says so. Its text form never shows the password."""

    conninfo: str
    variable: str = "DATABASE_URL"
    connect_timeout_seconds: int = 5
    file: str = ""

    @classmethod
    def parse(cls, text: str, variable: str = "DATABASE_URL") -> "Address":
        """Take a libpq URL or keyword DSN, or what SQLAlchemy hosts write (`postgresql+asyncpg://…?ssl=require`).

        Raises InvalidAddress, whose text repeats nothing of the address: it may hold a password.
        """
        try:
            conninfo = _as_libpq_url(text.strip())
            _require_sense(conninfo_to_dict(conninfo))
        except (psycopg.ProgrammingError, ValueError):
            raise InvalidAddress(
                f"{variable} is neither a URL (postgresql://user:password@host/database) nor a keyword DSN "
                "(host=… dbname=…); in a URL, write special characters of the password in percent form"
            ) from None
        return cls(conninfo, variable)

    @classmethod
    def read(cls, path: str, variable: str) -> "Address":
        """Take the address that a file holds; raises InvalidAddress, whose text repeats nothing of it."""
        try:
            with Path(path).open(encoding="utf-8") as file:
                text = file.read(FILE_LIMIT).strip()
        except OSError as error:
            raise InvalidAddress(f"{variable}: {path} cannot be read: {error.strerror}") from error
        except ValueError:
            raise InvalidAddress(f"{variable}: {path!r} is no path, or no text is in it") from None
        if not text:
            raise InvalidAddress(f"{variable}: {path} is empty")
        return replace(cls.parse(text, variable), file=path)

    def current(self) -> "Address":
        """The address as its file has it now, so that a new password needs no restart.

        Raises Unreachable while the file holds none: it may be about to be written.
        """
        if not self.file:
            return self
        try:
            return Address.read(self.file, self.variable)
        except InvalidAddress as error:
            raise Unreachable(str(error)) from error

    def __str__(self) -> str:
        parts = conninfo_to_dict(self.conninfo)
        host, port = parts.get("host") or "local socket", parts.get("port") or 5432
        return f"{parts.get('user') or os.environ.get('PGUSER', '')}@{host}:{port}/{parts.get('dbname') or ''}"

    __repr__ = __str__

    def parameters(self, role: str) -> dict[str, str | int]:
        """What libpq needs beside the address: who we are and how soon a silent peer is given up.

        Of several hosts the one that takes writes, wherever it is after a failover. What the address itself says wins.
        """
        given = {name: value for name, value in conninfo_to_dict(self.conninfo).items() if value is not None}
        defaults: dict[str, str | int] = {
            "application_name": f"cabinet-recovery {role}",
            "client_encoding": "UTF8",
            "connect_timeout": self.connect_timeout_seconds,
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": 20_000,
        }
        if "," in str(given.get("host", given.get("hostaddr", ""))):
            defaults["target_session_attrs"] = "read-write"
        return defaults | given


def _as_libpq_url(text: str) -> str:
    if "\0" in text:
        raise ValueError  # libpq would take what stands before it for all
    if not re.match(r"\w+(\+\w+)?://", text):
        return text
    url = urlsplit(text)
    # A second @ is one of the password's that is not in percent form: libpq would take the rest for a host.
    if not re.fullmatch(r"postgres(ql)?(\+\w+)?", url.scheme) or (url.netloc + url.path).count("@") > 1:
        raise ValueError
    if "+" not in url.scheme:
        return urlunsplit(url._replace(scheme="postgresql"))
    # Of a SQLAlchemy URL's options only some are libpq's; asyncpg's ssl is its sslmode.
    known = {option.keyword.decode() for option in Conninfo.get_defaults()}
    given = [("sslmode" if key == "ssl" else key, value) for key, value in parse_qsl(url.query)]
    query = urlencode([(key, value) for key, value in given if key in known], quote_via=quote)
    return urlunsplit(url._replace(scheme="postgresql", query=query))


def _require_sense(parts: Mapping[str, Any]) -> None:
    """Refuse what psycopg and libpq would only refuse in the middle of connecting, quoting the address."""
    if any("@" in str(parts.get(name)) for name in ("host", "dbname")):
        raise ValueError  # a piece of the password
    ports = str(parts.get("port") or "").split(",")
    hosts = str(parts.get("host") or parts.get("hostaddr") or "").split(",")
    if len(ports) not in {1, len(hosts)}:
        raise ValueError
    for host in hosts:
        host.encode("idna")  # what it refuses, asyncio would refuse; UnicodeError is a ValueError
    for port in filter(None, ports):
        if not 0 < int(port) < 1 << 16:
            raise ValueError
    int(parts.get("connect_timeout") or 0)


class Connection(psycopg.AsyncConnection[dict[str, Any]]):
    """A connection that knows where it ended.

    `server` is equal for two connections only if they lead to the same run of the same server and to the same
    database; `is_pooled` where a pooler stands in between, so that the next transaction may run in another session.
    """

    server: tuple[Any, ...] = ()
    is_pooled = False

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.heartbeat = Heartbeat()


WHERE_WE_ARE: LiteralString = """
SELECT
    pg_backend_pid() AS backend_pid,
    pg_is_in_recovery() AS is_standby,
    current_setting('transaction_read_only')::boolean AS is_read_only,
    EXTRACT(EPOCH FROM pg_postmaster_start_time()) AS started_at,
    current_database() AS database
"""
LOOK_SECONDS = 10
RESET_READ_ONLY = "ALTER DATABASE, ROLE or SYSTEM … RESET default_transaction_read_only, whichever set it"


async def connect(address: Address, role: str, heartbeat: Heartbeat | None = None) -> Connection:
    """Open an autocommit connection to a server that takes writes.

    Raises Unreachable, ReadOnlyServer or AccessRefused; waits no longer than connect_timeout per host.
    """
    address = address.current()
    try:
        connection = await Connection.connect(
            **address.parameters(role),  # type: ignore[arg-type] # libpq takes every keyword
            autocommit=True,
            prepare_threshold=0,
            row_factory=dict_row,
        )
    except psycopg.OperationalError as error:
        raise refusal(error, address) from error
    connection.heartbeat = heartbeat or connection.heartbeat
    try:
        await _look_around(connection, address)
    except BaseException:
        connection.pgconn.finish()
        raise
    return connection


async def _look_around(connection: Connection, address: Address) -> None:
    async with deadline(connection, LOOK_SECONDS):
        cursor = await connection.execute(WHERE_WE_ARE, prepare=False)
        found = await cursor.fetchone()
        assert found is not None  # noqa: S101 # no table that could be empty
        connection.server = (found["started_at"], found["database"])
        # A pooler has a session key of its own. Its next transaction may run where nothing was prepared.
        connection.is_pooled = found["backend_pid"] != connection.info.backend_pid
        if connection.is_pooled:
            connection.prepare_threshold = None
        else:
            # To listen is to be idle: a host's timeout for sessions that were forgotten is not for ours.
            await connection.execute("SET idle_session_timeout = 0", prepare=False)
    if found["is_standby"]:
        raise ReadOnlyServer(_about_standby(address))
    if found["is_read_only"]:
        raise ReadOnlyServer(f"{address} takes no writes: default_transaction_read_only is on; {RESET_READ_ONLY}")


def refusal(error: psycopg.OperationalError, address: Address) -> DatabaseError:
    """Tell what is final, a refusal or an address that cannot be, from an absence, which passes."""
    words = " ".join(str(error).split())
    # One for each host, where there are several: only what all of them refuse is final.
    failures = words.rsplit("All failures were:", 1)[-1].split(" - host: ")
    refused = [failure for failure in failures if ACCESS_REFUSED.search(failure)]
    if option := OPTION_REFUSED.search(words):
        return InvalidAddress(f"{address.variable} gives a {option[option.lastindex or 0]} that libpq does not take")
    if not refused and READ_ONLY.search(words):
        return ReadOnlyServer(_about_standby(address))
    kind = AccessRefused if len(refused) == len(failures) else Unreachable
    return kind(f"cannot connect to {address}: {_reason(refused[0] if refused else words)}")


def _reason(words: str) -> str:
    # libpq tells of every host and address that it tried; the last reason stands for all.
    return words.rsplit("failed: ", 1)[-1][:300]


def require_writable(in_hot_standby: bytes | None, address: Address) -> None:
    if in_hot_standby == b"on":
        raise ReadOnlyServer(_about_standby(address))


def _about_standby(address: Address) -> str:
    return (
        f"{address} is a read-only standby: give the primary's address, or all hosts and "
        "target_session_attrs=read-write"
    )


async def require_schema(connection: Connection) -> None:
    """Raise SchemaMismatch unless the migrations that this code needs have run."""
    try:
        async with deadline(connection, LOOK_SECONDS):
            cursor = await connection.execute("SELECT version_num FROM ops.cabinet_recovery_alembic_version")
            row = await cursor.fetchone()
    except psycopg.errors.UndefinedTable:
        row = None
    except psycopg.errors.InsufficientPrivilege as error:
        raise AccessRefused(
            f"the role lacks its rights: {error.diag.message_primary}; run `consumer grants --apply` as their owner"
        ) from None
    require_revision(row["version_num"] if row else None)


def require_revision(found: str | None) -> None:
    if found is None:
        raise SchemaMismatch("the service's schema is missing: run `consumer migrate`")
    if found < SCHEMA_REVISION:
        raise SchemaMismatch(f"the service's schema is outdated ({found}): run `consumer migrate`")
