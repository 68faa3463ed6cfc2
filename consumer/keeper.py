"""The keeper: in mode 'adaptive' it stays awake while notifications come fast, and looks by itself meanwhile."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, LiteralString

import structlog

from consumer.inbox import Inbox
from db import keeping
from db.connect import Connection
from db.liveness import deadline, while_idle

log = structlog.get_logger(__name__)

ANSWER_SECONDS = 5.0
TICK_SECONDS = 1.0
REPEAT_SECONDS = 5.0

WAKING_RATE, DROWSY_RATE = 500, 200  # matches a second: above the one it wakes up, below the other it falls asleep
LEASE_SECONDS, RENEWAL_SECONDS = 6.0, 3.0

SHORTEST_REST_SECONDS, LONGEST_REST_SECONDS = 0.01, 0.25
ENOUGH_WAITING = 500
LOOK_LIMIT = 10_000  # events; where there are more, a sweep follows
REST_PER_LOOK = 4  # a look that takes long is not to take all the server's time


class Keeper:
    """One consumer of all is the keeper; for the others it is only watched over.

    *Asleep*, which is normal, the keeper's session has the sleep lock, and the engine notifies. *Awake*, a lease is
    granted in the settings: the engine is silent, having taken the sleep lock, shared, until its transaction's end,
    and the keeper looks at the outbox every few milliseconds. To fall asleep it ends the lease, takes the sleep lock
    (then whoever was silent has ended) and, in a statement that begins after that, looks once more.

    Where the keeper dies awake, its lease runs out and the engine notifies again; what was silent until then is
    found by the others, who look once a second for as long as a lease stands in the settings, and by the next keeper,
    which starts as if it were to fall asleep. A lease stands until no transaction's snapshot can show it any more.

    The locks are this session's and not the listener's, which reads and nothing else. That loses nothing: whoever
    loses the listener's connection sweeps once it has another, whether or not the engine notified meanwhile.
    """

    def __init__(self, inbox: Inbox, wake_sweeper: Callable[[], None]) -> None:
        self._inbox = inbox
        self._wake_sweeper = wake_sweeper
        self._is_adaptive = asyncio.Event()
        self._offered = Recently()

    def note_mode(self, is_adaptive: bool) -> None:  # noqa: FBT001 # it is what it is told
        """Take in whether the mode is adaptive; one that was, and of which a lease still stands, counts as that."""
        if is_adaptive:
            self._is_adaptive.set()
        else:
            self._is_adaptive.clear()

    async def wanted(self) -> None:
        """Wait until the mode is adaptive."""
        await self._is_adaptive.wait()

    async def use(self, connection: Connection, on_progress: Callable[[], None]) -> None:
        """Keep until cancelled; raises psycopg.OperationalError where the connection is lost, or too slow.

        The connection must be the server's own session: behind a pooler, its locks would be somebody else's.
        """
        await self._stand_by(connection, on_progress)
        log.info("keeper.appointed")
        await _ask(connection, keeping.END_LEASE)
        is_wanted = await self._fall_asleep(connection)
        while True:
            if not is_wanted:
                await self._sleep(connection)
            log.info("keeper.woken")
            await self._stay_awake(connection)
            is_wanted = await self._fall_asleep(connection)

    async def _stand_by(self, connection: Connection, on_progress: Callable[[], None]) -> None:
        """Wait for the post to fall vacant, and look at what a keeper may have left meanwhile."""
        while True:
            may_keep = self._is_adaptive.is_set() and not connection.is_pooled
            (found,) = await _ask(connection, keeping.WATCH, may_keep=may_keep)
            on_progress()
            if found["is_keeper"]:
                return
            if found["is_leased"]:
                self._wake_sweeper()
            await while_idle(connection, lambda: asyncio.sleep(TICK_SECONDS), TICK_SECONDS)
            await while_idle(connection, self._is_adaptive.wait)

    async def _sleep(self, connection: Connection) -> None:
        """Return once notifications come fast, with a lease; the engine is silent from now on."""
        forget_at = asyncio.get_running_loop().time() + LEASE_SECONDS
        is_leased = True
        while True:
            rate = await while_idle(connection, self._measure_rate, TICK_SECONDS)
            if rate >= WAKING_RATE and self._is_adaptive.is_set() and await self._lease(connection):
                await _ask(connection, keeping.UNLOCK)
                return
            if is_leased and asyncio.get_running_loop().time() > forget_at and not self._inbox.waiting:
                # No snapshot shows the lease as granted any more, and what the last look found is done.
                is_leased = not await _ask(connection, keeping.FORGET_LEASE)

    async def _stay_awake(self, connection: Connection) -> None:
        """Look again and again, until little is found, or the mode is another."""
        loop = asyncio.get_running_loop()
        while True:
            until = loop.time() + RENEWAL_SECONDS
            found = 0
            while loop.time() < until:
                found += await self._look_and_rest(connection, SHORTEST_REST_SECONDS)
                while self._inbox.waiting >= ENOUGH_WAITING and loop.time() < until:
                    found += ENOUGH_WAITING  # the worker has all that it can do
                    await while_idle(connection, lambda: asyncio.sleep(LONGEST_REST_SECONDS), LONGEST_REST_SECONDS)
            if found < DROWSY_RATE * RENEWAL_SECONDS or not await self._lease(connection):
                await _ask(connection, keeping.END_LEASE)
                return

    async def _fall_asleep(self, connection: Connection) -> bool:
        """Look until nobody who was silent is left, and once more; true where notifications come fast again."""
        loop = asyncio.get_running_loop()
        rest, heard, since = SHORTEST_REST_SECONDS, self._inbox.received, loop.time()
        while not (await _ask(connection, keeping.LOCK))[0]["is_locked"]:
            await self._look_and_rest(connection, rest)
            rest = min(2 * rest, LONGEST_REST_SECONDS)
            if (now := loop.time()) - since >= TICK_SECONDS:
                rate = (self._inbox.received - heard) / (now - since)
                if rate >= WAKING_RATE and self._is_adaptive.is_set() and await self._lease(connection):
                    return True
                heard, since = self._inbox.received, now
        # A statement of its own: one that takes the lock may have begun before the last of them committed.
        await self._look(connection)
        log.info("keeper.asleep")
        return False

    async def _lease(self, connection: Connection) -> bool:
        """Tell the engine that it may be silent; false where the mode is another, or somebody holds the settings."""
        return bool(await _ask(connection, keeping.LEASE, seconds=LEASE_SECONDS))

    async def _measure_rate(self) -> float:
        heard = self._inbox.received
        await asyncio.sleep(TICK_SECONDS)
        return (self._inbox.received - heard) / TICK_SECONDS

    async def _look_and_rest(self, connection: Connection, seconds: float) -> int:
        loop = asyncio.get_running_loop()
        began = loop.time()
        found = await self._look(connection)
        seconds = max(seconds, REST_PER_LOOK * (loop.time() - began))
        await while_idle(connection, lambda: asyncio.sleep(seconds), seconds)
        return found

    async def _look(self, connection: Connection) -> int:
        """Put what stands in the outbox into the inbox; tell how much of it is new.

        What the worker could not do is for the sweeper, and offered again some seconds later.
        """
        (found,) = await _ask(connection, keeping.LOOK, limit=LOOK_LIMIT)
        if found["seen"] == LOOK_LIMIT:
            self._wake_sweeper()
        new = self._offered.add(found["event_ids"])
        for event_id, lead_id in zip(found["event_ids"], found["lead_ids"], strict=True):
            if event_id in new:
                self._inbox.add(lead_id)
        return len(new)


class Recently:
    """What was added within the last REPEAT_SECONDS, and perhaps in as many before."""

    def __init__(self) -> None:
        self._latest: set[int] = set()
        self._earlier: set[int] = set()
        self._turn_at = 0.0

    def add(self, members: Iterable[int]) -> set[int]:
        """Add members, and return those that were not there."""
        now = asyncio.get_running_loop().time()
        if now >= self._turn_at:
            self._latest, self._earlier, self._turn_at = set(), self._latest, now + REPEAT_SECONDS
        new = set(members) - self._latest - self._earlier
        self._latest |= new
        return new


async def _ask(connection: Connection, statement: LiteralString, **parameters: Any) -> list[dict[str, Any]]:
    async with deadline(connection, ANSWER_SECONDS):
        cursor = await connection.execute(statement, parameters)
        return await cursor.fetchall()
