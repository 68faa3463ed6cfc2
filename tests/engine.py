"""A matching engine that re-matches without pause, handlers that recover without pause, and what must come of it."""

import asyncio
import random
import threading
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Literal

import psycopg
from psycopg.rows import dict_row

from consumer.connection import open_handler
from consumer.handlers.outcome import Outcome, Recovery
from consumer.handlers.recover import Handler
from consumer.settings import Settings
from consumer.sweeper import list_due, recover_batch
from db import listing, queries
from tests.database import Database

Table = Literal["link", "job"]

SETTLING_ROUNDS = 10
# Far above the longest batch of these tests, and above the server's second before it looks for a deadlock.
ENGINE_LOCK_TIMEOUT = "3s"

REMATCH = {
    "link": """
        INSERT INTO canon.identity_links (person_key, source_table, source_pk, snapshot_date, match_rule, match_score,
            confidence_level)
        SELECT person_key, 'module_ct_cabinet_leads', lead_id, now(), 'phone_exact', 90, 'HIGH'
        FROM unnest(%s::text[], %s::uuid[]) AS match (lead_id, person_key)
        ON CONFLICT (source_table, source_pk) DO UPDATE SET person_key = EXCLUDED.person_key, linked_at = now()
    """,
    "job": """
        INSERT INTO ops.identity_matching_jobs (source_type, source_id, status, matched_person_key)
        SELECT 'cabinet', lead_id, 'matched', person_key
        FROM unnest(%s::text[], %s::uuid[]) AS match (lead_id, person_key)
        ON CONFLICT (source_type, source_id) DO UPDATE
        SET status = 'matched', matched_person_key = EXCLUDED.matched_person_key, updated_at = now()
    """,
}


class Engine:
    """Writes the links of some leads and the jobs of some, each a row that no other engine writes.

    So two engines never wait for each other, and whatever one waits for or fails of is the service's doing. Where
    the link and the job of a lead belong to different engines, their transactions meet in crossed order.

    A lead goes round the people in turn: it comes back to one only after all others, so that every write is a
    change, and the last one is known by its person.
    """

    def __init__(self, url: str, people: Sequence[uuid.UUID], rows: Sequence[tuple[Table, str]], seed: int) -> None:
        self.matches: dict[str, uuid.UUID] = {}
        self._url = url
        self._people = people
        self._rows = rows
        self._random = random.Random(seed)
        self._turns = {lead_id: self._random.randrange(len(people)) for _, lead_id in rows}

    def rematch(self, transactions: int) -> None:
        """Run so many transactions of a few rows each, in random order; every fifth or so is rolled back.

        Raises psycopg.Error for whatever the engine would have seen.
        """
        with psycopg.connect(self._url, application_name="engine") as connection:
            connection.execute(f"SET lock_timeout = '{ENGINE_LOCK_TIMEOUT}'")
            connection.commit()
            for _ in range(transactions):
                written = self._write_some(connection)
                if self._random.random() < 0.2:
                    connection.rollback()
                else:
                    connection.commit()
                    self.matches |= written

    def _write_some(self, connection: psycopg.Connection) -> dict[str, uuid.UUID]:
        written: dict[str, uuid.UUID] = {}
        for table, lead_id in self._random.sample(self._rows, k=self._random.randint(2, 6)):
            self._turns[lead_id] += 1
            written[lead_id] = self._people[self._turns[lead_id] % len(self._people)]
            connection.execute(REMATCH[table], ([lead_id], [written[lead_id]]))
        return written


class Fleet:
    """Shared persons, and leads whose links and jobs several engines write."""

    def __init__(self, database: Database, engines: int = 4, people: int = 20, leads: int = 60) -> None:
        self._database = database
        self.people = [database.person() for _ in range(people)]
        rows: list[list[tuple[Table, str]]] = [[] for _ in range(engines)]
        for number in range(leads):
            lead_id = database.lead()
            writer = number % engines
            rows[writer].append(("link", lead_id))
            # Half of the leads are one engine's with both tables: there, the last match is certain.
            rows[writer if number % (2 * engines) < engines else (writer + 1) % engines].append(("job", lead_id))
        self.engines = [Engine(database.owner_url, self.people, part, seed) for seed, part in enumerate(rows)]
        # A fault in the data, should it ever happen: it ends up in the exception table.
        database.run("""
            CREATE FUNCTION public.forbid() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                RAISE EXCEPTION 'a first recovery moved';
            END $$
        """)
        database.run(
            "CREATE TRIGGER first_recovery_stays BEFORE UPDATE ON ops.cabinet_lead_recovery_audit FOR EACH ROW "
            "WHEN (old.first_recovered_at <> new.first_recovered_at) EXECUTE FUNCTION public.forbid()"
        )

    def rematch(self, transactions: int) -> None:
        """Let the engines run at the same time, to their end; raises what any of them met."""
        with ThreadPoolExecutor(len(self.engines)) as pool:
            for run in [pool.submit(engine.rematch, transactions) for engine in self.engines]:
                run.result()

    def settle(self) -> set[str]:
        """Sweep until a sweep finds nothing; return the leads recovered."""
        recovered: set[str] = set()
        for _ in range(SETTLING_ROUNDS):
            recoveries = asyncio.run(recover_due(self._database.settings()))
            if not recoveries:
                return recovered
            recovered |= recovered_of(recoveries)
        raise AssertionError(f"not settled after {SETTLING_ROUNDS} sweeps: {recoveries}")

    def check(self, recovered: set[str]) -> None:
        """Assert the end state, from the tables alone; `recovered` are the leads that were ever said to be."""
        self._check_links()
        self._check_origins()
        audited = {row["lead_id"] for row in self._database.run("SELECT lead_id FROM ops.cabinet_lead_recovery_audit")}
        assert audited == recovered
        assert self._database.events() == []
        assert self._database.run(
            "SELECT * FROM ops.cabinet_recovery_exception "
            "WHERE parked_at IS NOT NULL OR (resolved_at IS NULL AND outcome <> 'origin_held')"
        ) == []  # fmt: skip
        before = self._database.row_versions()
        self._database.sweep()
        assert self._database.row_versions() == before

    def _check_links(self) -> None:
        links = self._database.run("SELECT source_pk, person_key FROM canon.identity_links")
        assert {link["source_pk"] for link in links} == {lead for engine in self.engines for lead in engine.matches}
        for link in links:
            lead_id = link["source_pk"]
            # Of two transactions that overlap, either may have been the last.
            assert link["person_key"] in {engine.matches.get(lead_id) for engine in self.engines}, lead_id

    def _check_origins(self) -> None:
        for row in self._database.run("""
            SELECT link.person_key, link.source_pk, origin.origin_tag::text, holder.person_key AS holder_person
            FROM canon.identity_links AS link
            LEFT JOIN canon.identity_origin AS origin USING (person_key)
            LEFT JOIN canon.identity_links AS holder ON origin.origin_source_id = holder.source_pk
        """):
            assert (row["origin_tag"], row["holder_person"]) == ("cabinet_lead", row["person_key"]), row


def recovered_of(recoveries: Sequence[Recovery]) -> set[str]:
    return {recovery.lead_id for recovery in recoveries if recovery.outcome == Outcome.RECOVERED}


async def recover_due(settings: Settings) -> list[Recovery]:
    """Sweep once."""
    handler = await open_handler(settings, "test")
    async with handler.connection:
        batch = await recover_batch(handler, await list_due(handler, listing.LIST_ALL, limit=10_000))
        return batch.recoveries


class Handlers:
    """So many handlers in a thread, each on a connection of its own, recovering whatever is due until stopped."""

    def __init__(self, settings: Settings, count: int) -> None:
        self.recovered: set[str] = set()
        self._settings = settings
        self._count = count
        self._stopping = threading.Event()

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Raise what any handler met, at the end of the block."""
        with ThreadPoolExecutor(1) as pool:
            run = pool.submit(asyncio.run, self._run())
            try:
                yield
            finally:
                self._stopping.set()
            run.result()

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for seed in range(self._count):
                group.create_task(self._keep_recovering(random.Random(seed)))

    async def _keep_recovering(self, chance: random.Random) -> None:
        handler = await open_handler(self._settings, "test")
        async with handler.connection:
            while not self._stopping.is_set():
                await self._recover_some(handler, chance)

    async def _recover_some(self, handler: Handler, chance: random.Random) -> None:
        statement = chance.choice((listing.LIST_PENDING, listing.LIST_ALL))
        leads = await list_due(handler, statement, limit=10_000)
        batch = await recover_batch(handler, chance.sample(leads, k=chance.randint(0, len(leads))))
        self.recovered |= recovered_of(batch.recoveries)


@contextmanager
def held_handler(
    database: Database,
    *lead_ids: str,
    statements: Sequence[Any] = (queries.CLAIM, queries.RESOLVE),
    url: str | None = None,
    by_state: bool = False,
) -> Iterator[psycopg.Connection[dict[str, Any]]]:
    """A handler's transaction that has done its work and is kept from its commit until the end of the block.

    It is rolled back where the block ended it itself.
    """
    parameters = {"lead_ids": list(lead_ids), "lock_timeout_ms": 100, "statement_timeout_ms": 30_000}
    parameters |= {"is_alone": True, "by_state": by_state}
    with psycopg.connect(url or database.url, row_factory=dict_row, application_name="held handler") as connection:
        for statement in (queries.SET_UP_BATCH, *statements):
            connection.execute(statement, parameters)
        yield connection


def blockers(database: Database, connection: psycopg.Connection[Any]) -> list[int]:
    """The server processes that this connection waits for."""
    found: list[int] = database.value("SELECT pg_blocking_pids(%s)", connection.info.backend_pid)
    return found


def waiting_handlers(database: Database) -> list[int]:
    """The server processes of the handlers of tests that wait for a lock."""
    rows = database.run(
        "SELECT pid FROM pg_stat_activity "
        "WHERE application_name = 'cabinet-recovery test' AND wait_event_type = 'Lock' AND datname = current_database()"
    )
    return [row["pid"] for row in rows]
