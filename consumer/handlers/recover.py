"""The handler: whatever asks for leads to be recovered, they are recovered here."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, LiteralString

import psycopg

from consumer.handlers.outcome import Batch, Outcome, Recovery
from db import failures, queries
from db.connect import Connection
from db.transaction import run_together

# What is wrong for all leads alike, until it passes or an operator mends it: 42, 58, … Whatever is not here counts
# against a lead that raises it twice alone, the codes that a host's own triggers make up among them: one that was taken
# for the environment's would end every sweep at that lead, for ever.
ENVIRONMENT_CLASSES = (
    *("08", "0A", "0B", "0L", "0P", "25", "26", "28", "2D", "3B", "3D", "3F", "40", "42"),
    *("53", "54", "55", "57", "58", "72", "F0", "HV", "XX"),
)
# Filed under "program limit" and "internal error", but one lead's: an id that no index can hold, a damaged row.
DATA_ERRORS = ("54000", "XX001")
# Somebody else's transaction is in the way, of one of the rows perhaps; or the batch was too large for its time.
CONTENTION = (
    psycopg.errors.QueryCanceled,
    psycopg.errors.LockNotAvailable,
    psycopg.errors.DeadlockDetected,
    psycopg.errors.SerializationFailure,
)
SEARCH_LOCK_TIMEOUT_MS = 5
# How many leads are tried in one transaction; fewer, once the server was too slow for so many.
MOST_TOGETHER, LEAST_TOGETHER = 500, 10
MESSAGE_LIMIT = 500


class Asked(Enum):
    """Who asks, when it is no event, and how an event is made of it.

    What an operator asks for goes the way of all events. What a sweep found by its state is worked as it stands: to
    write an event, lock it and delete it within one transaction would only cost time.
    """

    BY_SWEEP = queries.ENQUEUE_DUE
    BY_OPERATOR = queries.ENQUEUE_ASKED


@dataclass
class Handler:
    """Recovers leads, a batch in a transaction of its own.

    Safe to repeat, to run beside any number of others, and to kill at any moment: a transaction either did all of
    it or nothing, and the events that it did not settle stand.
    """

    connection: Connection
    lock_timeout_ms: int = 100
    statement_timeout_seconds: int = 30
    max_attempts: int = 10
    _most: int = MOST_TOGETHER

    async def recover(self, lead_ids: Sequence[str], asked: Asked | None = None) -> Batch:
        """Recover those of the leads that have events that are due, and for a sweep those that are due without one.

        A lead whose data are at fault stands alone in the exception table in the end, and the others are done; a
        lead that somebody's transaction holds is left pending and reported as busy. Every other error of the
        database is the environment's and is raised (psycopg.Error): nothing of the batch at hand was done, though
        where the server is slow, there may have been earlier ones.
        """
        batch, waiting = Batch(), list(dict.fromkeys(lead_ids))
        while waiting:
            part, waiting = waiting[: self._most], waiting[self._most :]
            batch += await self._recover_or_split(part, asked, self.lock_timeout_ms)
        return batch

    async def ask(self, lead_ids: list[str], asked: Asked) -> None:
        """Make events of the wish, for whoever sweeps next."""
        await self._together([asked.value], lead_ids=lead_ids)

    async def _recover_or_split(self, lead_ids: list[str], asked: Asked | None, lock_timeout_ms: int) -> Batch:
        try:
            batch = await self._recover_together(lead_ids, asked, lock_timeout_ms)
        except psycopg.Error as error:
            if not (_is_data_error(error) or isinstance(error, CONTENTION)):
                raise
            if len(lead_ids) > 1:
                if isinstance(error, psycopg.errors.QueryCanceled):
                    self._most = max(LEAST_TOGETHER, len(lead_ids) // 2)
                # Rows were waited for once; the search for who holds them must not wait again for each.
                middle, patience_ms = len(lead_ids) // 2, min(lock_timeout_ms, SEARCH_LOCK_TIMEOUT_MS)
                first = await self._recover_or_split(lead_ids[:middle], asked, patience_ms)
                return first + await self._recover_or_split(lead_ids[middle:], asked, patience_ms)
            if _is_data_error(error):
                return await self._try_again_and_record(lead_ids[0], asked)
            return Batch(busy=lead_ids)
        # Slowly up, at once down: a batch that is too large costs all the time that it may take.
        self._most = min(MOST_TOGETHER, max(self._most, len(lead_ids) + len(lead_ids) // 8))
        return batch

    async def _try_again_and_record(self, lead_id: str, asked: Asked | None) -> Batch:
        """A second attempt, of which we know what events came before it: only those may count as failed."""
        try:
            *_, counted = await self._together([failures.COUNT_EVENTS], lead_id=lead_id)
            try:
                return await self._recover_together([lead_id], asked, self.lock_timeout_ms)
            except psycopg.Error as error:
                if not _is_data_error(error):
                    raise
                return Batch([await self._record_failure(lead_id, error, asked, counted[0]["events"])])
        except CONTENTION:
            return Batch(busy=[lead_id])

    async def _recover_together(self, lead_ids: list[str], asked: Asked | None, lock_timeout_ms: int) -> Batch:
        statements: list[LiteralString] = [queries.CLAIM, queries.RESOLVE]
        if asked is Asked.BY_OPERATOR:
            statements.insert(0, asked.value)
        *_, claim, resolved = await self._together(
            statements,
            lead_ids=lead_ids,
            lock_timeout_ms=lock_timeout_ms,
            is_alone=len(lead_ids) == 1,
            by_state=asked is Asked.BY_SWEEP,
        )
        requested_at = claim[0]["requested_at"]
        lost = [row["lead_id"] for row in resolved if row["outcome"] is None]
        return Batch(
            [_recovery(row, requested_at.get(row["lead_id"])) for row in resolved if row["outcome"] is not None],
            claim[0]["busy"] + lost,
        )

    async def _record_failure(
        self, lead_id: str, error: psycopg.Error, asked: Asked | None, known_events: int
    ) -> Recovery:
        # Only the primary message: the detail quotes the row, and a row has names and phones in it.
        message = (error.diag.message_primary or "")[:MESSAGE_LIMIT]
        *_, scheduled = await self._together(
            [failures.RECORD_FAILURE, failures.SCHEDULE_RETRY],
            lead_id=lead_id,
            sqlstate=error.sqlstate,
            message=message,
            known_events=known_events,
            starts_over=asked is Asked.BY_OPERATOR,
            max_attempts=self.max_attempts,
        )
        (retry,) = scheduled
        return Recovery(
            lead_id,
            Outcome.FAILED,
            f"{error.sqlstate} {message}",
            retry_seconds=None if retry["parked"] else retry["retry_seconds"],
        )

    async def _together(self, statements: list[LiteralString], **parameters: Any) -> list[list[dict[str, Any]]]:
        settings = {
            "is_alone": True,
            "lock_timeout_ms": self.lock_timeout_ms,
            "statement_timeout_ms": 1000 * self.statement_timeout_seconds,
        }
        return await run_together(
            self.connection,
            [queries.SET_UP_BATCH, *statements],
            settings | parameters,
            self.statement_timeout_seconds,
        )


def _is_data_error(error: psycopg.Error) -> bool:
    # Without an SQLSTATE it is the connection that was lost.
    state = error.sqlstate
    return state is not None and (state in DATA_ERRORS or not state.startswith(ENVIRONMENT_CLASSES))


def _recovery(row: dict[str, Any], requested_at: float | None) -> Recovery:
    return Recovery(
        lead_id=row["lead_id"],
        outcome=Outcome(row["outcome"]),
        reason=row["reason"],
        link=row["link"],
        origin=row["origin"],
        audit=row["audit"],
        method=row["method"],
        lag_ms=None if requested_at is None else 1000 * (row["recovered_at"] - requested_at),
    )
