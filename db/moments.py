"""Dates and times as Python can have them, whatever the host's tables and sessions say."""

from datetime import UTC, date, datetime
from typing import Any

import psycopg
from psycopg.types.datetime import DateLoader, TimestamptzLoader

# A day less than Python could have at either end: moments are told in zones as well.
FIRST, LAST = datetime(1, 1, 2, tzinfo=UTC), datetime(9999, 12, 30, tzinfo=UTC)


def read_every_moment(connection: psycopg.Connection[Any]) -> None:
    """Let the connection, which must be idle and in autocommit, read every date and time that PostgreSQL can have.

    One before FIRST or after LAST, an infinite one too, is read as that: the year that somebody mistyped must not make
    a report on all the others fail. And where the host's sessions write dates in another style than ISO, this one
    does not.
    """
    connection.adapters.register_loader("date", _ClampedDate)
    connection.adapters.register_loader("timestamptz", _ClampedMoment)
    if not (connection.info.parameter_status("DateStyle") or "").startswith("ISO"):
        connection.execute("SET datestyle = ISO")


class _ClampedDate(DateLoader):
    def load(self, data: Any) -> date:
        try:
            return min(max(super().load(data), FIRST.date()), LAST.date())
        except psycopg.DataError:
            return FIRST.date() if _is_before_all(data) else LAST.date()


class _ClampedMoment(TimestamptzLoader):
    def load(self, data: Any) -> datetime:
        try:
            return min(max(super().load(data), FIRST), LAST)
        except psycopg.DataError:
            return FIRST if _is_before_all(data) else LAST


def _is_before_all(data: Any) -> bool:
    text = bytes(data)
    return text.startswith(b"-") or text.endswith(b"BC")
