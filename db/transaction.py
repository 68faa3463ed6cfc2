"""Transactions in one round trip, with a deadline that a dead network cannot outlast."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, LiteralString

from psycopg.pq import TransactionStatus

from db.connect import Connection
from db.liveness import deadline

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
    # The server's timeout is for each statement; never does more than one of them take long.
    async with deadline(connection, 2 * statement_timeout_seconds + NETWORK_SECONDS):
        try:
            # Not connection.transaction(), which waits for BEGIN and COMMIT to come back.
            async with connection.pipeline():
                await connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
                cursors = [await connection.execute(text, parameters) for text in statements]
                await connection.execute("COMMIT")
        finally:
            if connection.info.transaction_status == TransactionStatus.INERROR:
                await connection.rollback()
            _heed_cancellation()
        return [await cursor.fetchall() if cursor.description else [] for cursor in cursors]


def _heed_cancellation() -> None:
    """Be cancelled now, if that was asked for and lost: asyncio.wait_for, on which psycopg waits, may swallow it."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
