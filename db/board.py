"""What the live page shows beside the impact: by views alone, as a role that may read nothing else."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from db.impact import SET_UP, Calendar, read_calendar

SHOWN = 10
COUNTED = 1000
DAYS_AHEAD = 3
DAYS_BACK = 30

# Asked for twice a second, so it must cost nothing: by keys, whatever the statistics say, and no further than COUNTED.
LOOK_SET_UP = sa.text("""
    SELECT
        set_config('transaction_read_only', 'on', true),
        set_config('statement_timeout', '5s', true),
        set_config('lock_timeout', '500ms', true),
        set_config('enable_seqscan', 'off', true),
        set_config('enable_hashagg', 'off', true),
        set_config('enable_hashjoin', 'off', true),
        set_config('enable_mergejoin', 'off', true),
        set_config('jit', 'off', true)
""")
LATEST = sa.text("""
    SELECT
        lead_id,
        first_recovered_at AS recovered_at,
        (first_recovered_at <= window_ends_at) IS TRUE AS is_in_time,
        EXTRACT(EPOCH FROM first_recovered_at - matched_at)::float8 AS seconds
    FROM ops.v_cabinet_recovery_audit
    ORDER BY first_recovered_at DESC
    LIMIT :shown
""")
PENDING = sa.text("""
    SELECT
        count(*) AS leads,
        EXTRACT(EPOCH FROM clock_timestamp() - min(requested_at))::float8 AS oldest_seconds
    FROM (
        SELECT requested_at
        FROM ops.v_cabinet_recovery_pending
        WHERE is_due
        ORDER BY lead_id
        LIMIT :counted
    ) AS pending
""").bindparams(sa.bindparam("counted", COUNTED, literal_execute=True))

RECOVERIES = sa.text("""
    WITH recovered AS (
        SELECT
            (first_recovered_at AT TIME ZONE CAST(:zone AS text))::date AS day,
            (first_recovered_at <= window_ends_at) IS TRUE AS is_in_time,
            EXTRACT(EPOCH FROM first_recovered_at - matched_at)::float8 AS seconds
        FROM ops.v_cabinet_recovery_audit
        WHERE first_recovered_at >= CAST(:first_day AS timestamp) AT TIME ZONE CAST(:zone AS text)
    )
    SELECT
        day,
        count(*) FILTER (WHERE is_in_time) AS in_time,
        count(*) FILTER (WHERE NOT is_in_time) AS late,
        percentile_cont(ARRAY[0.5, 0.9]) WITHIN GROUP (ORDER BY seconds) AS seconds
    FROM recovered
    GROUP BY day
""")

# A window closes as its last day begins.
CLOSING = sa.text("""
    SELECT
        impact.lead_id,
        impact.window_end_14d::timestamp AT TIME ZONE CAST(:zone AS text) AS closes_at,
        COALESCE(
            exception.outcome, CASE WHEN impact.identity_effective THEN 'pending' ELSE 'no_person_key' END
        ) AS reason,
        count(*) OVER () AS leads
    FROM ops.v_cabinet_identity_recovery_impact_14d AS impact
    LEFT JOIN ops.v_cabinet_recovery_exception AS exception
        ON exception.lead_id = impact.lead_id AND exception.resolved_at IS NULL
    WHERE
        impact.recovered_at IS NULL
        AND NOT impact.origin_ok
        AND impact.lead_date > :first_date
        AND impact.lead_date <= :last_date
    ORDER BY impact.window_end_14d, impact.lead_id
    LIMIT :shown
""")
PARKED = sa.text("""
    SELECT lead_id, parked_at, attempts, sqlstate, count(*) OVER () AS leads
    FROM ops.v_cabinet_recovery_exception
    WHERE resolved_at IS NULL AND parked_at IS NOT NULL
    ORDER BY parked_at DESC, lead_id
    LIMIT :shown
""")


@dataclass(frozen=True)
class Latest:
    """A recovery: whether within the window, and how long after its match, where that is known."""

    lead_id: str
    recovered_at: datetime
    is_in_time: bool
    seconds: float | None


@dataclass(frozen=True)
class Look:
    """What can be asked for at any time: how much is due, for how long, and what was recovered last.

    No more than COUNTED leads are looked at that are due, in the order of their ids.
    """

    due_leads: int
    oldest_seconds: float | None
    latest: Sequence[Latest]

    @property
    def has_more(self) -> bool:
        return self.due_leads == COUNTED


@dataclass(frozen=True)
class Recoveries:
    """What was recovered on a day of the business, and how long after the match, in seconds."""

    day: date
    in_time: int = 0
    late: int = 0
    median_seconds: float | None = None
    p90_seconds: float | None = None


@dataclass(frozen=True)
class Closing:
    lead_id: str
    closes_at: datetime
    reason: str


@dataclass(frozen=True)
class Parked:
    lead_id: str
    parked_at: datetime
    attempts: int
    sqlstate: str | None


@dataclass(frozen=True)
class Board:
    """Of the lists, the first SHOWN; how many leads there are stands beside them. `days` has the oldest first."""

    calendar: Calendar
    days: Sequence[Recoveries]
    closing: Sequence[Closing]
    closing_leads: int
    parked: Sequence[Parked]
    parked_leads: int


@contextmanager
def _reading(engine: sa.Engine, set_up: sa.TextClause) -> Iterator[sa.Connection]:
    with engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
        connection.execute(set_up)
        yield connection


def look(engine: sa.Engine) -> Look:
    """Milliseconds, however many leads there are; raises sqlalchemy.exc.DBAPIError or db.connect.DatabaseError."""
    with _reading(engine, LOOK_SET_UP) as connection:
        latest = [Latest(*row) for row in connection.execute(LATEST, {"shown": SHOWN})]
        pending = connection.execute(PENDING).one()
    return Look(pending.leads, pending.oldest_seconds, latest)


def read_board(engine: sa.Engine) -> Board:
    """It looks at every lead: seconds where there are a million. It writes nothing; raises as `look` does."""
    with _reading(engine, SET_UP) as connection:
        calendar = read_calendar(connection)
        closing = _listed(connection, CLOSING, _ahead(calendar))
        parked = _listed(connection, PARKED, {})
        days = _recoveries(connection, calendar)
    return Board(
        calendar,
        days,
        [Closing(*row[:-1]) for row in closing],
        _total(closing),
        [Parked(*row[:-1]) for row in parked],
        _total(parked),
    )


def _ahead(calendar: Calendar) -> dict[str, Any]:
    """The leads whose windows close after today, and no later than DAYS_AHEAD days from now."""
    first_date = calendar.today - timedelta(days=14)
    last_date = first_date + timedelta(days=DAYS_AHEAD)
    return {"first_date": first_date, "last_date": last_date, "zone": calendar.business_time_zone}


def _listed(connection: sa.Connection, query: sa.TextClause, parameters: dict[str, Any]) -> list[Any]:
    return list(connection.execute(query, parameters | {"shown": SHOWN}))


def _total(rows: Sequence[Any]) -> int:
    return rows[0].leads if rows else 0


def _recoveries(connection: sa.Connection, calendar: Calendar) -> list[Recoveries]:
    first_day = calendar.today - timedelta(days=DAYS_BACK - 1)
    parameters = {"zone": calendar.business_time_zone, "first_day": first_day}
    found = {row.day: row for row in connection.execute(RECOVERIES, parameters)}
    days = (first_day + timedelta(days=number) for number in range(DAYS_BACK))
    return [
        Recoveries(day, row.in_time, row.late, *(row.seconds or (None, None)))
        if (row := found.get(day))
        else Recoveries(day)
        for day in days
    ]
