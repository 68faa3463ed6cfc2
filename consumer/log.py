"""Logging: facts with keywords, one JSON object per line, or coloured text on a terminal. Always on stderr."""

import logging
import os
import sys
from contextlib import suppress
from typing import Any

import structlog

from consumer.errors import SettingsError, one_line
from consumer.handlers.outcome import Batch, Outcome
from consumer.settings import Settings, unknown_variables

log = structlog.get_logger(__name__)

PRIORITIES = {"debug": 7, "warning": 4, "error": 3, "exception": 3, "critical": 2}
# Without the variables' values, as plain_traceback: a password may be among them.
TRACEBACKS = structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False))


class _Stderr:
    """Where the log goes. What stderr does not take, its disk full or its reader gone, is lost: the work goes on."""

    def write(self, text: str) -> None:
        with suppress(OSError):
            sys.stderr.write(text)

    def flush(self) -> None:
        with suppress(OSError):
            sys.stderr.flush()


def configure(settings: Settings) -> None:
    """Set up structlog for the process.

    A file of the level that names none is told of, and the setting holds; so is a variable that is no setting.
    """
    # What psycopg has to say of a connection that it gives up, we say ourselves.
    logging.getLogger("psycopg").setLevel(logging.CRITICAL)
    form = settings.log_format
    console = form == "console" or (form == "auto" and sys.stderr.isatty())
    renderers: list[structlog.typing.Processor] = (
        [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)]
        if console
        else [TRACEBACKS, structlog.processors.JSONRenderer(), *([_add_priority] if _is_journal() else [])]
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *renderers,
        ],
        logger_factory=structlog.WriteLoggerFactory(file=_Stderr()),  # type: ignore[arg-type] # all that it uses
        cache_logger_on_first_use=False,
    )
    _set_level(settings.log_level)
    _take_level(settings)
    for name in unknown_variables():
        log.warning("setting.unknown", name=name)


def reread_level(settings: Settings) -> None:
    """Take the level from its file again; a file that names none changes nothing, and is told of."""
    if (level := _take_level(settings)) is not None:
        log.info("log_level.reread", log_level=level)


def _take_level(settings: Settings) -> str | None:
    try:
        level = settings.current_log_level()
    except SettingsError as error:
        log.warning("log_level.refused", reason=one_line(error))
        return None
    _set_level(level)
    return level


def _set_level(level: str) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())))


def _is_journal() -> bool:
    """Whether stderr goes straight to systemd's journal, which says so by the device and number of the socket."""
    stderr = os.fstat(sys.stderr.fileno())
    return os.environ.get("JOURNAL_STREAM") == f"{stderr.st_dev}:{stderr.st_ino}"


def _add_priority(_logger: object, level: str, line: Any) -> str:
    """What makes `journalctl -p warning` find our warnings: sd-daemon(3)."""
    return f"<{PRIORITIES.get(level, 6)}>{line}"


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
