"""The host's objects, known by what they offer and not by their names alone."""

from collections.abc import Sequence
from pathlib import Path

import psycopg

from db.connect import Address, InvalidAddress, SchemaMismatch, refusal, require_writable

MISFITS = Path(__file__).with_name("host_misfits.sql")


class HostDoesNotFit(SchemaMismatch):
    """What the host has is not what the service needs; `misfits` is the whole list, and nothing was changed."""

    def __init__(self, misfits: Sequence[str]) -> None:
        many = f"in {len(misfits)} places, listed above" if len(misfits) > 1 else "in one place, named above"
        super().__init__(f"the host's schema does not fit {many}; nothing was changed")
        self.misfits = tuple(misfits)


def open_session(address: Address, role: str) -> psycopg.Connection:
    """An autocommit connection to a server that takes writes, with no pooler in between.

    What is done to a schema needs a session of its own: settings and a lock that last. Raises
    db.connect.DatabaseError.
    """
    try:
        connection = psycopg.connect(**address.parameters(role), autocommit=True)  # type: ignore[arg-type] # libpq's
    except psycopg.OperationalError as error:
        raise refusal(error, address) from error
    try:
        require_writable(connection.pgconn.parameter_status(b"in_hot_standby"), address)
        _require_own_session(connection, address)
    except BaseException:
        connection.close()
        raise
    return connection


def _require_own_session(connection: psycopg.Connection, address: Address) -> None:
    # A pooler has a session key of its own.
    if connection.execute("SELECT pg_backend_pid()").fetchone() != (connection.info.backend_pid,):
        raise InvalidAddress(f"{address.variable} leads to a pooler: give the server's own address for this")


def misfits_query() -> str:
    return MISFITS.read_text(encoding="utf-8")


def require_fitting_host(connection: psycopg.Connection) -> None:
    """Raise HostDoesNotFit with all that does not fit; a database without any of the host's objects fits."""
    if misfits := [misfit for (misfit,) in connection.execute(misfits_query().encode())]:
        raise HostDoesNotFit(misfits)
