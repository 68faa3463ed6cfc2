"""Transactions in one round trip, and a deadline that a dead network cannot outlast."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, LiteralString

from psycopg.pq import TransactionStatus

from db.connect import Connection

NETWORK_SECONDS = 5


async def run_together(
    connection: Connection,
    statements: Sequence[LiteralString],
    parameters: Mapping[str, Any],
    statement_timeout_seconds: float,
) -> list[list[dict[str, Any]]]:
    """Run the statements as one transaction; the rows of each come back.

    All of it, with the commit, is sent without waiting for an answer: the network is crossed once, and a client that
    freezes holds locks only if that happens within the microseconds of sending. READ COMMITTED, whatever the
    database's default: each statement must see what the one before it waited for.

    An error (psycopg.Error) means that nothing was done, unless it is the connection that was lost: then the commit
    may have been done.
    """
    # The server's timeout is for each statement.
    seconds = (len(statements) + 1) * statement_timeout_seconds + NETWORK_SECONDS
    async with deadline(connection, seconds):
        try:
            # Not connection.transaction(), which waits for BEGIN and COMMIT to come back.
            async with connection.pipeline():
                await connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
                cursors = [await connection.execute(text, parameters) for text in statements]
                await connection.execute("COMMIT")
        finally:
            if connection.info.transaction_status == TransactionStatus.INERROR:
                await connection.rollback()
        return [await cursor.fetchall() if cursor.description else [] for cursor in cursors]


@asynccontextmanager
async def deadline(connection: Connection, seconds: float) -> AsyncIterator[None]:
    """Sever the connection if the block takes longer; it then fails as any lost connection does.

    A shutdown of the socket, not a cancellation: to cancel, psycopg asks the server, which a dead network
    never answers.
    """
    timer = asyncio.get_running_loop().call_later(seconds, sever, connection)
    try:
        yield
    finally:
        timer.cancel()


def sever(connection: Connection) -> None:
    """Cut the connection now: whoever waits on it wakes up with a psycopg.OperationalError."""
    if connection.closed:
        return
    with socket.socket(fileno=os.dup(connection.pgconn.socket)) as peer:
        try:
            peer.shutdown(socket.SHUT_RDWR)
        except OSError:  # it is gone already
            return
