"""The doctor: looks for what goes wrong on a site, and says for each what mends it."""

from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime

import psycopg

from consumer.doctor.checks import CHECKS
from consumer.doctor.examination import GRANT, LOOK_SECONDS, Check, Finding, Patient
from consumer.errors import one_line
from consumer.settings import Settings
from db.connect import DatabaseError


def examine(settings: Settings, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> Iterator[Finding]:
    """Make every check, and yield what each finds; one that cannot be made says why.

    Where the database cannot be reached, or our schema is not there, what needs it is skipped.
    """
    try:
        patient = Patient(settings, clock)
    except DatabaseError as error:
        yield Finding("connection", "fail", str(error), "see DATABASE_URL; is the server up?")
        yield from (Finding(name, "skipped", "there is no connection") for name in list(CHECKS)[1:])
        return
    with closing(patient.connection):
        yield from _examine(patient)


def _examine(patient: Patient) -> Iterator[Finding]:
    has_schema = True
    for name, (check, needs_schema) in CHECKS.items():
        if patient.connection.closed:
            finding = Finding(name, "skipped", "the connection was lost")
        elif needs_schema and not has_schema:
            finding = Finding(name, "skipped", "the service's schema is not there")
        else:
            finding = _made(name, check, patient)
        yield finding
        if name == "schema":
            has_schema = finding.state != "fail"


def _made(name: str, check: Check, patient: Patient) -> Finding:
    try:
        return check(patient)
    except psycopg.errors.InsufficientPrivilege as error:
        return Finding(name, "fail", one_line(error), GRANT)
    except psycopg.errors.QueryCanceled:
        return Finding(name, "warn", f"not known: it took longer than {LOOK_SECONDS} s", "consumer doctor, later")
    except psycopg.errors.LockNotAvailable:
        return Finding(name, "warn", "not known: a table is locked by somebody", "consumer doctor, later")
    except psycopg.Error as error:
        return Finding(name, "fail", one_line(error), "consumer doctor, again; if it stays, tell us")
