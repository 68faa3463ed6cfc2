"""The impact of recovery on collection within 14 days, as a report: for the command, the page and the web."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import sqlalchemy as sa

from db.impact import (
    SET_UP,
    Calendar,
    Count,
    Elapsed,
    Period,
    Times,
    count_unknown_leads,
    read_calendar,
    read_counts,
    read_times,
)

BUCKETS = {
    "still_unidentified": "no person is known",
    "identified_but_missing_origin": "a person, but no origin that says it came from this lead",
    "identified_origin_no_claim": "person and origin without our doing, and no claim",
    "identified_origin_claim": "person and origin without our doing, and a claim",
    "recovered_within_14d_but_no_claim": "recovered in time, and no claim",
    "recovered_within_14d_and_claim": "recovered in time, and a claim",
    "recovered_late": "recovered after the 14 days, or without a lead_date",
}
REASONS = {
    "no_person_key": "the matching engine has not found its person",
    "pending": "matched; the daemon or the next `consumer sweep` recovers it",
    "origin_manual": "the origin of its person was decided by hand, discarded or marked as legacy",
    "origin_held": "the origin of its person belongs to another lead",
    "unknown_person": "its match names a person who is not in the registry",
    "unknown_lead": "its match names a lead that there is not",
    "failed": "its data were refused: `consumer parked list`",
}
SERIES_DAYS = 30
NO_TIMES = Times(Elapsed(0, None, None), Elapsed(0, None, None))


@dataclass(frozen=True)
class Totals:
    """The host's names for its figures, with its definitions of them."""

    total_leads: int
    unidentified_count: int
    identified_no_origin_count: int
    recovered_within_14d_count: int
    recovered_late_count: int
    recovered_within_14d_and_claim_count: int
    still_unidentified_count: int
    identified_but_missing_origin_count: int
    identified_origin_no_claim_count: int


@dataclass(frozen=True)
class Bucket:
    impact_bucket: str
    leads: int
    share: float


@dataclass(frozen=True)
class Day:
    """The leads of one lead_date, and what became of them since."""

    date: date
    leads: int
    unidentified: int
    recovered_within_14d: int
    recovered_late: int
    claims: int
    times: Times


@dataclass(frozen=True)
class ImpactReport:
    """The figures of one moment. `series` has every day of the period, or else the last 30, the latest first."""

    read_at: datetime
    business_time_zone: str
    since: date | None
    until: date | None
    totals: Totals
    buckets: Sequence[Bucket]
    times: Times
    series: Sequence[Day]
    top_reasons: dict[str, int]


def read_impact(engine: sa.Engine, period: Period | None = None, *, with_times: bool = True) -> ImpactReport:
    """Read all of it as of one moment; raises sqlalchemy.exc.DBAPIError.

    It looks at every lead of the period: seconds where there are a million. It writes nothing, waits for no lock
    longer than half a second, and depends on no setting of the session. Half of it goes into the times: without them,
    there are none.
    """
    period = period or Period()
    with engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
        connection.execute(SET_UP)
        calendar = read_calendar(connection)
        counts = read_counts(connection, period)
        unknown = 0 if period.is_bounded else count_unknown_leads(connection)
        first_day, last_day = _days_of(period, calendar, counts)
        times = read_times(connection, period, first_day, last_day) if with_times else {}
    return ImpactReport(
        calendar.read_at,
        calendar.business_time_zone,
        period.since,
        period.until,
        _totals(counts),
        _buckets(counts),
        times.get(None, NO_TIMES),
        list(_series(counts, times, first_day, last_day)),
        _top_reasons(counts, unknown),
    )


def _days_of(period: Period, calendar: Calendar, counts: Sequence[Count]) -> tuple[date, date]:
    """The first and the last day of the series: of a period, no further than there are leads."""
    dated = [one.lead_date for one in counts if one.lead_date is not None]
    last_day = min(period.until or calendar.today, max([calendar.today, *dated]))
    if period.since is None:
        return last_day - timedelta(days=SERIES_DAYS - 1), last_day
    return max(period.since, min([last_day, *dated])), last_day


def _totals(counts: Sequence[Count]) -> Totals:
    of_claims = _sums((one.claim_status_bucket, one.leads) for one in counts)
    of_impact = _sums((one.impact_bucket, one.leads) for one in counts)
    in_time_and_claim = of_impact["recovered_within_14d_and_claim"]
    return Totals(
        total_leads=of_impact.total(),
        unidentified_count=of_claims["unidentified"],
        identified_no_origin_count=of_claims["identified_no_origin"],
        recovered_within_14d_count=of_impact["recovered_within_14d_but_no_claim"] + in_time_and_claim,
        recovered_late_count=of_impact["recovered_late"],
        recovered_within_14d_and_claim_count=in_time_and_claim,
        still_unidentified_count=of_impact["still_unidentified"],
        identified_but_missing_origin_count=of_impact["identified_but_missing_origin"],
        identified_origin_no_claim_count=of_claims["identified_origin_no_claim"],
    )


def _buckets(counts: Sequence[Count]) -> list[Bucket]:
    leads = _sums((one.impact_bucket, one.leads) for one in counts)
    total = leads.total()
    return [Bucket(name, leads[name], leads[name] / total if total else 0.0) for name in BUCKETS]


def _series(counts: Sequence[Count], times: dict[date | None, Times], first_day: date, last_day: date) -> Iterator[Day]:
    of_day: dict[date, list[Count]] = {}
    for one in counts:
        if one.lead_date is not None:
            of_day.setdefault(one.lead_date, []).append(one)
    for back in range((last_day - first_day).days + 1):
        day = last_day - timedelta(days=back)
        yield _day(day, of_day.get(day, ()), times.get(day, NO_TIMES))


def _day(day: date, counts: Sequence[Count], times: Times) -> Day:
    return Day(
        date=day,
        leads=sum(one.leads for one in counts),
        unidentified=sum(one.leads for one in counts if one.claim_status_bucket == "unidentified"),
        recovered_within_14d=sum(one.leads for one in counts if one.recovered_within_14d),
        recovered_late=sum(one.leads for one in counts if one.recovered_within_14d is False),
        claims=sum(one.leads for one in counts if one.has_claim),
        times=times,
    )


def _top_reasons(counts: Sequence[Count], unknown_leads: int) -> dict[str, int]:
    leads = _sums((one.reason, one.leads) for one in counts if one.reason is not None)
    leads["unknown_lead"] += unknown_leads
    return {reason: count for reason, count in sorted(leads.items(), key=lambda one: (-one[1], one[0])) if count}


def _sums(pairs: Iterable[tuple[str, int]]) -> Counter[str]:
    sums: Counter[str] = Counter()
    for name, leads in pairs:
        sums[name] += leads
    return sums
