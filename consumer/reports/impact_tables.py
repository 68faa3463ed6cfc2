"""The impact as people read it on a terminal, and as spreadsheets do."""

import csv
import sys
from collections.abc import Iterator
from typing import Any

from rich.table import Table

from consumer.reports.impact import BUCKETS, REASONS, Day, ImpactReport
from consumer.reports.terminal import show_table
from db.impact import Elapsed

UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"), (0.001, "ms"))
CSV_COLUMNS = (
    *("lead_date", "leads", "unidentified", "recovered_within_14d", "recovered_late", "claims"),
    *("match_to_recovery_leads", "match_to_recovery_median_seconds", "match_to_recovery_p90_seconds"),
    *("lead_to_recovery_leads", "lead_to_recovery_median_seconds", "lead_to_recovery_p90_seconds"),
)


def in_words(seconds: float | None) -> str:
    """A time in the largest unit of which there is at least one."""
    if seconds is None:
        return "-"
    size, unit = next((one for one in UNITS if abs(seconds) >= one[0]), UNITS[-1])
    return f"{seconds / size:.1f} {unit}"


def show_impact(report: ImpactReport) -> None:
    for table in (_buckets(report), _times(report), _days(report), _reasons(report)):
        if table.row_count:  # no day had a lead, or each lead is recovered
            show_table(table)


def write_csv(report: ImpactReport) -> None:
    """A row for each day, on standard output; times are in seconds."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    writer.writerows(csv_row(day) for day in report.series)


def csv_row(day: Day) -> list[Any]:
    counts = [day.date, day.leads, day.unidentified, day.recovered_within_14d, day.recovered_late, day.claims]
    return counts + list(_figures(day.times.match_to_recovery)) + list(_figures(day.times.lead_to_recovery))


def _figures(elapsed: Elapsed) -> Iterator[int | float | None]:
    yield from (elapsed.leads, elapsed.median_seconds, elapsed.p90_seconds)


def period_of(report: ImpactReport) -> str:
    """Of which leads the figures are."""
    if report.since is None and report.until is None:
        return "all leads"
    return f"leads of {report.since or 'the beginning'} to {report.until or 'today'}"


def _buckets(report: ImpactReport) -> Table:
    table = _table(f"Impact within 14 days, {period_of(report)}", "leads", "share", "")
    for one in report.buckets:
        table.add_row(one.impact_bucket, f"{one.leads}", f"{one.share:.1%}", BUCKETS[one.impact_bucket])
    table.add_row("total", f"{report.totals.total_leads}", "", f"by the calendar of {report.business_time_zone}")
    return table


def _times(report: ImpactReport) -> Table:
    table = _table("Time to recovery", "leads", "median", "90 % within")
    for name, elapsed in (("from match", report.times.match_to_recovery), ("from lead", report.times.lead_to_recovery)):
        table.add_row(name, f"{elapsed.leads}", in_words(elapsed.median_seconds), in_words(elapsed.p90_seconds))
    return table


def _days(report: ImpactReport) -> Table:
    table = _table("By lead_date", "leads", "unidentified", "in 14 d", "late", "claims", "from match", "from lead")
    for day in report.series:
        if day.leads:
            counts = (day.leads, day.unidentified, day.recovered_within_14d, day.recovered_late, day.claims)
            medians = (day.times.match_to_recovery.median_seconds, day.times.lead_to_recovery.median_seconds)
            table.add_row(f"{day.date}", *map(str, counts), *map(in_words, medians))
    return table


def _reasons(report: ImpactReport) -> Table:
    table = _table("Why leads are not recovered", "leads", "")
    for reason, leads in report.top_reasons.items():
        table.add_row(reason, f"{leads}", REASONS[reason])
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title, *columns, box=None, pad_edge=False)
    table.columns[0].no_wrap = True  # a bucket's whole name, whatever the terminal's width
    for column in table.columns[1:]:
        if column.header:
            column.justify = "right"
    return table
