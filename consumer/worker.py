"""The worker: takes what the listener heard and has it recovered."""

from collections import Counter
from collections.abc import Callable

import structlog

from consumer.handlers.outcome import Batch, Outcome
from consumer.handlers.recover import Handler
from consumer.inbox import Inbox
from consumer.log import log_recoveries
from db.liveness import while_idle

log = structlog.get_logger(__name__)


class Worker:
    """Works batches that form by themselves: while one is under way, the next gathers in the inbox.

    No delay is added for batching. `wake_sweeper` is called, at once or after the seconds given, for what has to be
    looked at again: leads that another transaction held, and leads that failed.
    """

    def __init__(self, inbox: Inbox, batch_size: int, wake_sweeper: Callable[[float], None]) -> None:
        self._inbox = inbox
        self._batch_size = batch_size
        self._wake_sweeper = wake_sweeper
        self.outcomes: Counter[Outcome] = Counter()
        self.unmatched = 0
        self.lag_ms: float | None = None

    async def use(self, handler: Handler, on_progress: Callable[[], None]) -> None:
        """Work until the inbox is closed; raises psycopg.Error where the database fails the batch in hand."""
        while lead_ids := await while_idle(handler.connection, lambda: self._inbox.take(self._batch_size)):
            batch = await handler.recover(lead_ids)
            on_progress()
            self._note(batch, asked=len(lead_ids))

    def _note(self, batch: Batch, asked: int) -> None:
        log_recoveries(batch)
        self.lag_ms = max((one.lag_ms for one in batch.recoveries if one.lag_ms is not None), default=self.lag_ms)
        self.outcomes.update(recovery.outcome for recovery in batch.recoveries)
        # Anyone may notify: an id without an event is unknown, or another consumer was faster.
        unmatched = asked - len(batch.recoveries) - len(batch.busy)
        self.unmatched += unmatched
        if unmatched:
            log.debug("hints.unmatched", count=unmatched)
        # A link that moves may free an origin that another lead waits for.
        if batch.busy or any(recovery.link == "move" for recovery in batch.recoveries):
            self._wake_sweeper(0)
        for recovery in batch.recoveries:
            if recovery.retry_seconds is not None:
                self._wake_sweeper(recovery.retry_seconds)
