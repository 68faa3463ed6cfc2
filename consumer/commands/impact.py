"""`consumer impact`: what recovery did for collection within 14 days."""

from datetime import date, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from consumer.commands.options import load_settings

# Heavy imports stand inside the commands: --help is to answer at once.
# ruff: noqa: PLC0415


class Format(StrEnum):
    TABLE = "table"
    JSON = "json"
    CSV = "csv"


def _day(text: str) -> date:
    try:
        return datetime.strptime(text, "%Y-%m-%d").date()  # noqa: DTZ007 # a day of the calendar has no zone
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no day as YYYY-MM-DD, such as 2026-11-24") from None


def impact(
    since: Annotated[
        date | None, typer.Option(parser=_day, metavar="YYYY-MM-DD", help="Leads of this lead_date and later.")
    ] = None,
    until: Annotated[
        date | None, typer.Option(parser=_day, metavar="YYYY-MM-DD", help="Leads of this lead_date and earlier.")
    ] = None,
    output: Annotated[
        Format, typer.Option("--format", help="csv: a row for each day, for a spreadsheet.")
    ] = Format.TABLE,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", dir_okay=False, help="Write a page with charts as well.")
    ] = None,
) -> None:
    """Show what recovery did for collection within 14 days.

    How many leads are in each bucket, were recovered in time or late, and how long it took; by day, for the last 30
    days or for the period; and why the others are not recovered. It only reads.
    """
    from consumer.reports.impact import read_impact
    from consumer.reports.impact_page import write_page
    from consumer.reports.impact_tables import show_impact, write_csv
    from consumer.reports.terminal import print_json
    from db.engine import open_engine
    from db.impact import Period

    if since and until and since > until:
        raise typer.BadParameter("--since is later than --until")
    period = Period(since, until)
    with open_engine(load_settings().database, "impact") as engine:
        report = read_impact(engine, period)
    if html is not None:
        try:
            write_page(report, html)
        except OSError as error:
            raise typer.BadParameter(f"{html} cannot be written: {error.strerror}") from error
    {Format.TABLE: show_impact, Format.JSON: print_json, Format.CSV: write_csv}[output](report)
