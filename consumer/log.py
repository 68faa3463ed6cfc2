"""Logging: facts with keywords, one JSON object per line, or coloured text on a terminal. Always on stderr."""

import logging
import sys

import structlog

from consumer.handlers.outcome import Batch, Outcome

log = structlog.get_logger(__name__)


def configure(level: str, form: str) -> None:
    """Set up structlog for the process; `form` is json, console or auto (console on a terminal, else json)."""
    # What psycopg has to say of a connection that it gives up, we say ourselves.
    logging.getLogger("psycopg").setLevel(logging.CRITICAL)
    console = form == "console" or (form == "auto" and sys.stderr.isatty())
    renderers: list[structlog.typing.Processor] = (
        [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
        if console
        else [structlog.processors.dict_tracebacks, structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *renderers,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=False,
    )


def log_recoveries(batch: Batch, level: str = "info") -> None:
    """One event per lead, failures always as warnings, and parked ones as errors."""
    for recovery in batch.recoveries:
        is_failed = recovery.outcome == Outcome.FAILED
        is_parked = is_failed and recovery.retry_seconds is None
        tell = log.error if is_parked else log.warning if is_failed else getattr(log, level)
        tell(
            "lead.parked" if is_parked else f"lead.{recovery.outcome}",
            lead_id=recovery.lead_id,
            reason=recovery.reason,
            link=recovery.link,
            origin=recovery.origin,
            lag_ms=None if recovery.lag_ms is None else round(recovery.lag_ms, 1),
        )
    if batch.busy:
        log.debug("leads.busy", count=len(batch.busy))
