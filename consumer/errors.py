"""How the program ends, and what it says then."""

import os
import signal
import sys
import traceback
from enum import IntEnum
from typing import Never

MISSING_RIGHT = "42501"
# Whoever is short of a right for `consumer triggers disable` is not helped by what the service is granted.
WHO_MAY = "; it takes the owner of the host's tables, or what they grant by `consumer grants --apply`"


class ExitCode(IntEnum):
    """The exit status of every command."""

    DONE = 0
    UNEXPECTED = 1
    USAGE = 2
    SCHEMA = 3
    DATABASE = 4
    LEADS = 5
    INTERRUPTED = 130
    TERMINATED = 143

    @classmethod
    def after(cls, number: signal.Signals) -> "ExitCode":
        """As shells have it; only for SIGINT and SIGTERM."""
        return cls(128 + number)


class SettingsError(Exception):
    """A setting is missing or makes no sense; the text names it and says what it takes."""


class Aborted(Exception):
    """What was in hand was given up when a signal asked us to stop; it was undone, and nothing is lost."""

    def __init__(self, text: str, number: signal.Signals) -> None:
        super().__init__(text)
        self.exit_code = ExitCode.after(number)


def tell(error: Exception) -> ExitCode:
    """Say on stderr what happened, and return the exit status that goes with it."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    status = exit_code_of(error)
    # Of a defect of ours whoever mends it needs to know where.
    is_defect = status == ExitCode.UNEXPECTED and not isinstance(error, OSError)
    trace = "".join(traceback.format_exception(error)) if is_defect else ""
    _say(f"{trace}consumer: {one_line(error)}\n")
    return status


def leave(text: str, status: ExitCode) -> Never:
    """End the program, with a line on stderr."""
    _say(f"consumer: {text}\n")
    raise SystemExit(status)


def _say(text: str) -> None:
    try:
        sys.stderr.write(text)
    except OSError:
        # Nobody hears it; but left in the buffer, it would make Python end with a status of its own.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def exit_code_of(error: BaseException) -> ExitCode:
    """The exit status that tells this error; UNEXPECTED for whatever is not among the documented ones."""
    if isinstance(error, SettingsError):
        return ExitCode.USAGE
    if isinstance(error, Aborted):
        return error.exit_code

    # Heavy, and only needed once something failed.
    import psycopg  # noqa: PLC0415

    from db import connect  # noqa: PLC0415

    error = _cause(error)
    if isinstance(error, connect.InvalidAddress):
        return ExitCode.USAGE
    if isinstance(error, connect.SchemaMismatch):
        return ExitCode.SCHEMA
    if isinstance(error, connect.DatabaseError | psycopg.Error):
        return ExitCode.DATABASE
    return ExitCode.UNEXPECTED


def one_line(error: BaseException) -> str:
    """What to tell of an error: never more than a line, never the row that a server quotes in its detail."""
    import psycopg  # noqa: PLC0415

    error = _cause(error)
    if isinstance(error, psycopg.Error) and error.diag.message_primary:
        hint = WHO_MAY if error.sqlstate == MISSING_RIGHT else ""
        primary = " ".join(error.diag.message_primary.split())[:500]
        return f"the database answered: {primary} (SQLSTATE {error.sqlstate}){hint}"
    return " ".join(str(error).split()) or type(error).__name__


def _cause(error: BaseException) -> BaseException:
    # SQLAlchemy wraps the driver's errors.
    return getattr(error, "orig", None) or error
