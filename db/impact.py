"""What recovery did for collection, in figures: the queries, for every report that shows them."""

from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import sqlalchemy as sa

# Every lead is looked at: what is compiled or spilled to disk meanwhile costs more than it saves, and so does sorting a
# million rows where few groups can be hashed, or keeping to one process because rows are thought dear to hand over.
SET_UP = sa.text("""
    SELECT
        set_config('transaction_read_only', 'on', true),
        set_config('statement_timeout', '120s', true),
        set_config('lock_timeout', '500ms', true),
        set_config('jit', 'off', true),
        set_config('work_mem', '64MB', true),
        set_config('enable_sort', 'off', true),
        set_config('parallel_tuple_cost', '0.01', true)
""")

READ_CALENDAR = sa.text("SELECT business_time_zone, read_at, today FROM ops.v_cabinet_recovery_calendar")

_WITHIN = (
    "(CAST(:since AS date) IS NULL OR lead_date >= :since) AND (CAST(:until AS date) IS NULL OR lead_date <= :until)"
)

# Why a lead without an origin of its own is not recovered: what was recorded, or else what would be decided. Most that
# nothing was recorded of are only waiting for a sweep, with a person who has no origin at all: they need no decision.
COUNT = sa.text(f"""
    SELECT
        impact.lead_date,
        impact.claim_status_bucket,
        impact.impact_bucket,
        impact.recovered_within_14d,
        impact.has_claim,
        CASE
            WHEN impact.recovered_at IS NOT NULL OR impact.origin_ok THEN NULL
            WHEN exception.outcome IS NOT NULL THEN exception.outcome
            WHEN NOT impact.identity_effective THEN 'no_person_key'
            WHEN
                NOT EXISTS (
                    SELECT FROM ops.v_cabinet_recovery_origin AS origin
                    WHERE origin.person_key = impact.person_key_effective
                ) THEN 'pending'
            ELSE (
                SELECT CASE WHEN decision.outcome IN ('recovered', 'unchanged') THEN 'pending' ELSE decision.outcome END
                FROM ops.v_cabinet_recovery_decision AS decision
                WHERE decision.lead_id = impact.lead_id
                LIMIT 1
            )
        END AS reason,
        count(*) AS leads
    FROM ops.v_cabinet_identity_recovery_impact_14d AS impact
    LEFT JOIN ops.v_cabinet_recovery_exception AS exception
        ON exception.lead_id = impact.lead_id AND exception.resolved_at IS NULL
    WHERE {_WITHIN}
    GROUP BY 1, 2, 3, 4, 5, 6
""")  # noqa: S608 # all of it is here

COUNT_UNKNOWN_LEADS = sa.text("""
    SELECT count(*) FROM ops.v_cabinet_recovery_exception WHERE resolved_at IS NULL AND outcome = 'unknown_lead'
""")

_ELAPSED = """
    count(from_match) FILTER (WHERE from_match >= 0) AS match_leads,
    percentile_cont(ARRAY[0.5, 0.9]) WITHIN GROUP (ORDER BY from_match) FILTER (WHERE from_match >= 0)
        AS match_seconds,
    count(from_lead) AS lead_leads,
    percentile_cont(ARRAY[0.5, 0.9]) WITHIN GROUP (ORDER BY from_lead) AS lead_seconds
"""

# All and by day one after the other: together, every row would be there twice, and sorted.
TIME = sa.text(f"""
    WITH recovered AS MATERIALIZED (
        SELECT
            lead_date,
            -- An infinite one, which PostgreSQL subtracts from version 17 on, is no time that it took.
            CASE
                WHEN isfinite(lead_created_at) THEN EXTRACT(EPOCH FROM first_recovered_at - lead_created_at)::float8
            END AS from_lead,
            EXTRACT(EPOCH FROM first_recovered_at - matched_at)::float8 AS from_match
        FROM ops.v_cabinet_recovery_audit
        WHERE {_WITHIN}
    )
    SELECT CAST(NULL AS date) AS day, {_ELAPSED} FROM recovered
    UNION ALL
    SELECT lead_date AS day, {_ELAPSED} FROM recovered
    WHERE lead_date BETWEEN :first_day AND :last_day
    GROUP BY lead_date
""")  # noqa: S608 # all of it is here


@dataclass(frozen=True)
class Period:
    """The leads that are looked at, by lead_date, both ends included; without any bound, all leads."""

    since: date | None = None
    until: date | None = None

    @property
    def is_bounded(self) -> bool:
        return self.since is not None or self.until is not None


@dataclass(frozen=True)
class Calendar:
    """When the figures were read, by the server's clock, and what day that is where the business is."""

    business_time_zone: str
    read_at: datetime
    today: date


@dataclass(frozen=True)
class Count:
    """How many leads are alike in all that reports tell apart; `reason` says why they are not recovered."""

    lead_date: date | None
    claim_status_bucket: str
    impact_bucket: str
    recovered_within_14d: bool | None
    has_claim: bool
    reason: str | None
    leads: int


@dataclass(frozen=True)
class Elapsed:
    """How long it took, of how many leads that is known, and the median and the 90th percentile, in seconds."""

    leads: int
    median_seconds: float | None
    p90_seconds: float | None


@dataclass(frozen=True)
class Times:
    """How long recovery took, from the match and from the lead."""

    match_to_recovery: Elapsed
    lead_to_recovery: Elapsed


def read_calendar(connection: sa.Connection) -> Calendar:
    return Calendar(**connection.execute(READ_CALENDAR).mappings().one())


def read_counts(connection: sa.Connection, period: Period) -> list[Count]:
    """Count the leads; matches that wait for their lead are counted with it, as a lead without a date."""
    return [Count(*row) for row in connection.execute(COUNT, vars(period))]


def count_unknown_leads(connection: sa.Connection) -> int:
    """Matches that name a lead that there is not."""
    return connection.scalar(COUNT_UNKNOWN_LEADS) or 0


def read_times(connection: sa.Connection, period: Period, first_day: date, last_day: date) -> dict[date | None, Times]:
    """The times over all leads of the period, under None, and of each lead_date among the days."""
    days = {"first_day": first_day, "last_day": last_day}
    found = connection.execute(TIME, vars(period) | days).mappings()
    return {row["day"]: Times(_elapsed(row, "match"), _elapsed(row, "lead")) for row in found}


def _elapsed(row: Any, since: str) -> Elapsed:
    median, p90 = row[f"{since}_seconds"] or (None, None)
    return Elapsed(row[f"{since}_leads"], median, p90)
