"""The look at all leads: it may take minutes, and nobody waits for it."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import psycopg

from consumer.due import DueList
from consumer.handlers.recover import Handler
from db.liveness import sever

Opener = Callable[[], Awaitable[Handler]]
Lister = Callable[[Handler], Awaitable[DueList | None]]


class Overview:
    """One look at a time, on a connection that is opened for it and closed after it."""

    def __init__(self, open_handler: Opener, list_leads: Lister) -> None:
        self._open_handler = open_handler
        self._list_leads = list_leads
        self._look: asyncio.Task[DueList | None] | None = None
        self._handler: Handler | None = None

    def begin(self) -> None:
        """Look, unless that is being done."""
        self._look = self._look or asyncio.create_task(self._look_once(), name="look at all leads")

    async def take(self, patience_seconds: float, on_late: Callable[[], None]) -> DueList | None:
        """What was found, once; None while it is being looked for, or where somebody else was looking.

        `on_late` is called when a look ends that outlasted the patience. Raises what the look met, psycopg.Error or
        db.connect.DatabaseError: the next one begins anew.
        """
        if self._look is None:
            return None
        await asyncio.wait({self._look}, timeout=patience_seconds)
        if not self._look.done():
            self._look.add_done_callback(lambda _: on_late())
            return None
        look, self._look = self._look, None
        return look.result()

    async def abandon(self) -> None:
        """End the look: it only reads."""
        look, self._look = self._look, None
        if look is None:
            return
        if self._handler is None:
            look.cancel()
        else:
            # To cancel, psycopg would ask the server, which may be what hangs.
            sever(self._handler.connection)
        with suppress(Exception, asyncio.CancelledError):
            await look

    async def _look_once(self) -> DueList | None:
        self._handler = await self._open_handler()
        try:
            return await self._list_leads(self._handler)
        except psycopg.errors.LockNotAvailable:
            return None  # a table is locked, by the host's DDL perhaps
        finally:
            self._handler.connection.pgconn.finish()
            self._handler = None
