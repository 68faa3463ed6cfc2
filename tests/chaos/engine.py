"""The matching engine under which faults strike: it commits without pause, and keeps no secret of what it committed."""

import itertools
import random
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import psycopg

from tests.engine import ENGINE_LOCK_TIMEOUT, REMATCH, Table

RECONNECT_SECONDS = 0.1
# Sent by a server that goes down, is down, comes up, or that ended the session: nobody's fault but its own.
SERVER_AWAY = ("57P", "08")

PEOPLE_PER_LEAD = 2

REGISTER = """
    WITH person AS (
        INSERT INTO canon.identity_registry (person_key, confidence_level)
        SELECT lpad(to_hex(number), 32, '0')::uuid, 'HIGH' FROM generate_series(1, %s) AS number
    )
    INSERT INTO public.module_ct_cabinet_leads (external_id, lead_created_at)
    SELECT 'lead-' || number, now() FROM generate_series(1, %s) AS number
"""
NOTE = """
    INSERT INTO chaos.match (transaction, lead_id, person_key)
    SELECT %s, lead_id, person_key FROM unnest(%s::text[], %s::uuid[]) AS match (lead_id, person_key)
"""


@dataclass(frozen=True)
class Match:
    """A lead, its person by number, and the table that the engine writes it to.

    `left` is who it was matched to before; a match that `stays` is that lead's last.
    """

    lead_id: str
    person: int
    table: Table
    left: int | None = None
    stays: bool = False


class Engine:
    """Matches leads for as long as it runs, a few in each transaction; every fifth or so is rolled back.

    Matches go to links and to jobs, are of new leads and of matched ones, and now and then of a person who has a
    lead already. A lead never comes back to a person, so that each match is known by the two; and leads that share
    a person keep it, so that no lead has to wait for another to leave.

    While the server is away it tries again until it is back; of a commit whose answer was lost it asks. Whatever
    else fails is kept in `aborts`: that is what the service must never cause.
    """

    def __init__(
        self,
        url: str,
        *,
        leads: int = 10_000,
        rate: float = 20,
        sizes: Sequence[int] = (1, 1, 2, 4),
        rematch_share: float = 0.3,
    ) -> None:
        self.aborts: list[psycopg.Error] = []
        self.committed = 0
        self._url = url
        self._leads = leads
        self._pause_seconds = 1 / rate
        self._sizes = sizes
        self._rematch_share = rematch_share
        self._random = random.Random(leads)
        self._lead_numbers = iter(range(1, leads + 1))
        self._people = itertools.count(1)
        self._transactions = itertools.count(1)
        self._movable: list[tuple[str, int]] = []  # leads whose person is theirs alone
        self._connection: psycopg.Connection[Any] | None = None
        self._turn = threading.RLock()
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._giving_up = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        with psycopg.connect(self._url) as connection:
            connection.execute(REGISTER, [PEOPLE_PER_LEAD * self._leads, self._leads])
            connection.execute("ANALYZE")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._giving_up.set()
        self.stop()
        if self._connection is not None:
            self._connection.close()

    def stop(self) -> None:
        """Match no more; what was begun is committed first."""
        self._stopping.set()
        self._thread.join()

    def match_new(self, size: int = 1, table: Table = "job") -> list[str]:
        """Commit matches, which stay, of so many new leads in one statement, now; return the leads."""
        with self._turn:
            numbers = list(itertools.islice(self._lead_numbers, size))
            assert len(numbers) == size, "no leads are left"
            draft = [Match(f"lead-{number}", next(self._people), table, stays=True) for number in numbers]
            self._commit(draft)
        return [match.lead_id for match in draft]

    def wait_for_commits(self, count: int, timeout: float = 60) -> None:
        """Wait until so many more transactions were committed."""
        with self._changed:
            goal = self.committed + count
            assert self._changed.wait_for(lambda: self.committed >= goal, timeout), "the engine stands still"

    def _run(self) -> None:
        due = time.monotonic()
        while not self._stopping.wait(max(0.0, due - time.monotonic())):
            # What was missed is not made up for: a server that comes back is not run over.
            due = max(due, time.monotonic() - 1) + self._pause_seconds
            with self._turn:
                draft = [self._draw() for _ in range(self._random.choice(self._sizes))]
                if self._random.random() < 0.2:
                    self._roll_back(draft)
                else:
                    self._commit(draft)

    def _draw(self) -> Match:
        table: Table = self._random.choice(("link", "job"))
        chance = self._random.random()
        number = None if self._movable and chance < self._rematch_share else next(self._lead_numbers, None)
        if number is None:
            lead_id, person = self._pick_movable()
            return Match(lead_id, next(self._people), table, left=person)
        if self._movable and chance > 0.9:
            _, person = self._pick_movable()
            return Match(f"lead-{number}", person, table, stays=True)
        return Match(f"lead-{number}", next(self._people), table)

    def _pick_movable(self) -> tuple[str, int]:
        place = self._random.randrange(len(self._movable))
        self._movable[place], self._movable[-1] = self._movable[-1], self._movable[place]
        return self._movable.pop()

    def _roll_back(self, draft: Sequence[Match]) -> None:
        with self._noting_failure():
            connection = self._connected()
            _write(connection, draft, transaction=0)
            connection.rollback()
        self._movable += [(match.lead_id, match.left) for match in draft if match.left is not None]

    def _commit(self, draft: Sequence[Match]) -> None:
        transaction = next(self._transactions)
        known_aborts = len(self.aborts)
        is_done = is_in_doubt = False
        while not (is_done or len(self.aborts) > known_aborts or self._giving_up.is_set()):
            with self._noting_failure():
                connection = self._connected()
                if not (is_in_doubt and _was_committed(connection, transaction)):
                    is_in_doubt = True
                    _write(connection, draft, transaction)
                    connection.commit()
                is_done = True
        if is_done:
            self._note(draft)

    def _note(self, draft: Sequence[Match]) -> None:
        self._movable += [(match.lead_id, match.person) for match in draft if not match.stays]
        with self._changed:
            self.committed += 1
            self._changed.notify_all()

    @contextmanager
    def _noting_failure(self) -> Iterator[None]:
        try:
            yield
        except psycopg.Error as error:
            if error.sqlstate and not error.sqlstate.startswith(SERVER_AWAY):
                self.aborts.append(error)
            if self._connection is not None:
                self._connection.close()
                self._connection = None
            self._giving_up.wait(RECONNECT_SECONDS)

    def _connected(self) -> psycopg.Connection[Any]:
        if self._connection is None:
            connection = psycopg.connect(self._url, application_name="engine", connect_timeout=5)
            connection.execute(f"SET lock_timeout = '{ENGINE_LOCK_TIMEOUT}'")
            connection.commit()
            self._connection = connection
        return self._connection


def _was_committed(connection: psycopg.Connection[Any], transaction: int) -> bool:
    found = connection.execute("SELECT FROM chaos.match WHERE transaction = %s LIMIT 1", [transaction]).rowcount
    return bool(found)


def _write(connection: psycopg.Connection[Any], draft: Sequence[Match], transaction: int) -> None:
    for table, statement in REMATCH.items():
        if part := [match for match in draft if match.table == table]:
            leads, people = [match.lead_id for match in part], [f"{match.person:032x}" for match in part]
            connection.execute(statement, (leads, people))
            connection.execute(NOTE, (transaction, leads, people))
