"""Connections that may be dead without knowing: deadlines, signs of life, and a watch over those that are idle."""

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

import psycopg

if TYPE_CHECKING:
    from db.connect import Connection

Found = TypeVar("Found")

SLACK_SECONDS = 5.0  # for an event loop that has other work


class Heartbeat:
    """By when a part of the program owes its next sign of life; never, until the first."""

    def __init__(self) -> None:
        self._due = float("inf")

    def expect(self, within_seconds: float) -> None:
        """Give a sign of life, and say how long the next may take."""
        self._due = time.monotonic() + within_seconds + SLACK_SECONDS

    @property
    def is_overdue(self) -> bool:
        return time.monotonic() > self._due


@asynccontextmanager
async def deadline(connection: "Connection", seconds: float) -> AsyncIterator[None]:
    """Sever the connection if the block takes longer; it then fails as any lost connection does.

    A shutdown of the socket, not a cancellation: to cancel, psycopg asks the server, which a dead network
    never answers.
    """
    connection.heartbeat.expect(seconds)
    loop = asyncio.get_running_loop()
    timer = loop.call_later(seconds, sever, connection)
    try:
        yield
    except psycopg.OperationalError as error:
        # To libpq, it was the server that closed the connection, and perhaps crashed.
        if error.sqlstate is None and loop.time() >= timer.when():
            raise psycopg.OperationalError(f"the server did not answer within {seconds:g} s") from error
        raise
    finally:
        timer.cancel()


def sever(connection: "Connection") -> None:
    """Cut the connection now: whoever waits on it wakes up with a psycopg.OperationalError."""
    if connection.closed:
        return
    with socket.socket(fileno=os.dup(connection.pgconn.socket)) as peer:
        try:
            peer.shutdown(socket.SHUT_RDWR)
        except OSError:  # it is gone already
            return


async def while_idle(
    connection: "Connection", wait: Callable[[], Awaitable[Found]], at_most_seconds: float = float("inf")
) -> Found:
    """Wait for something else than the database, without missing that the server ends the connection meanwhile.

    Raises psycopg.OperationalError at once where it does, so that whatever comes next meets a connection that works.
    `wait` may be interrupted, and is then called again. `at_most_seconds` is how long it may take: it counts as a
    sign of life until then.
    """
    loop = asyncio.get_running_loop()
    while True:
        connection.heartbeat.expect(at_most_seconds)
        # A number of its own: should psycopg close its own meanwhile, that one may be somebody else's by the end.
        with socket.socket(fileno=os.dup(connection.pgconn.socket)) as peer:
            try:
                async with asyncio.timeout(None) as patience:
                    loop.add_reader(peer, _interrupt, peer, patience)
                    try:
                        return await wait()
                    finally:
                        loop.remove_reader(peer)
            except TimeoutError:
                if not patience.expired():
                    raise
        # The server spoke without being asked: a farewell, or only news of a setting.
        async with deadline(connection, SLACK_SECONDS):
            await connection.execute("SELECT 1")


def _interrupt(peer: socket.socket, patience: asyncio.Timeout) -> None:
    loop = asyncio.get_running_loop()
    loop.remove_reader(peer)  # it stays readable
    patience.reschedule(loop.time())
