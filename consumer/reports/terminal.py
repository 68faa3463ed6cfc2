"""Answers as people read them: tables on the terminal, plain text where there is none."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import date, datetime
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from consumer.handlers.outcome import JobResult, Recovery

if TYPE_CHECKING:  # SQLAlchemy takes a third of a second, and a sweep has no use for it
    from _typeshed import DataclassInstance

    from consumer.doctor.examination import Finding
    from consumer.reports.rehearsal import Planned
    from db.plan import PlannedObject
    from db.reports import ParkedLead, Status
    from db.trigger_switch import TriggerState

ERRORS_SHOWN = 10
ID_SHOWN = 60
COLOURS = {"ok": "green", "warn": "yellow", "fail": "bold red", "skipped": "dim"}


def printable(text: str) -> str:
    """What somebody wrote into a table, without anything that a terminal would obey."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shortened(lead_id: str) -> str:
    """A lead id that fits a line, however long it is and whatever characters it has."""
    lead_id = printable(lead_id)
    return lead_id if len(lead_id) <= ID_SHOWN else f"{lead_id[:ID_SHOWN]}… ({len(lead_id)} characters)"


class Rate(ProgressColumn):
    """Leads in a second, of late."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.0f}/s", style="progress.data.speed")


@contextmanager
def progress_bar() -> Iterator[Callable[[int, int], None]]:
    """A bar on the terminal (stderr), nothing elsewhere; yields the function to tell it (done, total)."""
    console = Console(stderr=True)
    columns = (TextColumn("recovering"), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=None)

        def on_progress(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        yield on_progress


def show_summary(result: JobResult) -> None:
    counts = {key: value for key, value in result.items() if key != "errors"}
    show_table(_two_columns("Sweep", counts | {"errors": len(result["errors"])}))
    for error in result["errors"][:ERRORS_SHOWN]:
        Console(stderr=True).print(f"  {printable(error)}", markup=False, highlight=False)
    if (more := len(result["errors"]) - ERRORS_SHOWN) > 0:
        Console(stderr=True).print(f"  … and {more} more: see ops.cabinet_recovery_exception")


def show_recoveries(recoveries: Iterable[Recovery]) -> None:
    table = Table("lead", "outcome", "link", "origin", "why", box=None, pad_edge=False)
    for one in recoveries:
        table.add_row(shortened(one.lead_id), one.outcome, one.link or "-", one.origin or "-", printable(one.reason))
    show_table(table)


def show_plan(planned: Sequence["Planned"]) -> None:
    table = Table("lead", "outcome", "person", "link", "origin", "audit", "why", box=None, pad_edge=False)
    for one in planned:
        writes = (one.person_key or "-", one.link or "-", one.origin or "-", one.audit or "-")
        table.add_row(shortened(one.lead_id), one.outcome, *writes, printable(one.reason))
    show_table(table)
    Console(stderr=True).print(f"leads: {len(planned)}; a dry run: nothing was written", highlight=False)


def show_status(status: "Status") -> None:
    oldest = status.oldest_pending_seconds
    show_table(
        _two_columns(
            "Pending",
            {
                "leads": status.pending_leads,
                "due now": status.due_leads,
                "oldest": "-" if oldest is None else f"{oldest:.1f} s",
            },
        )
    )
    show_table(_two_columns("Not recovered", status.exceptions | {"parked": status.parked_leads}))
    show_table(_two_columns("Impact within 14 days", status.impact_buckets))


def show_parked(leads: Sequence["ParkedLead"], total: int) -> None:
    table = Table("lead", "parked at", "attempts", "error", box=None, pad_edge=False)
    for one in leads:
        error = f"{one.sqlstate or ''} {one.message or ''}".strip() + ("; the lead is gone" if one.is_gone else "")
        table.add_row(
            shortened(one.lead_id), f"{one.parked_at:%Y-%m-%d %H:%M:%S %Z}", str(one.attempts), printable(error)
        )
    show_table(table)
    Console(stderr=True).print(f"{len(leads)} of {total} parked leads", highlight=False)


def show_fields(title: str, fields: Mapping[str, object]) -> None:
    table = Table(title, "", box=None, pad_edge=False)
    for name, value in fields.items():
        table.add_row(name.replace("_", " "), "-" if value is None else printable(str(value)))
    show_table(table)


def show_story(lead_id: str, chapters: Iterable[tuple[str, datetime | None, str]], verdict: str) -> None:
    table = Table(lead_id, "when", "", box=None, pad_edge=False)
    for name, at, words in chapters:
        table.add_row(name, "-" if at is None else f"{at:%Y-%m-%d %H:%M:%S %Z}", printable(words))
    show_table(table)
    Console(markup=False, highlight=False, soft_wrap=True).print(f"\n{printable(verdict)}")


def show_findings(findings: Sequence["Finding"]) -> None:
    table = Table("check", "state", "found", box=None, pad_edge=False)
    for one in findings:
        table.add_row(one.check, Text(one.state, style=COLOURS[one.state]), printable(one.text))
    show_table(table)
    # Below the table: in a column of it, a command is folded on a narrow terminal, and cannot be copied.
    mends = [f"  {one.check}: {printable(one.mend)}" for one in findings if one.mend]
    if mends:
        Console(markup=False, highlight=False, soft_wrap=True).print("\n".join(["", "mend it with", *mends]))


def show_triggers(states: Sequence["TriggerState"]) -> None:
    table = Table("trigger", "table", "state", box=None, pad_edge=False)
    for one in states:
        table.add_row(one.name, one.table, one.state)
    show_table(table)


def show_migration(planned: Sequence["PlannedObject"]) -> None:
    table = Table("action", "kind", "object", "", box=None, pad_edge=False)
    for one in sorted(planned, key=lambda one: one.action):
        table.add_row(one.action, one.kind, one.name, one.remark)
    show_table(table)


def _two_columns(title: str, counts: Mapping[str, object]) -> Table:
    table = Table(title, "", box=None, pad_edge=False, min_width=40)
    table.columns[1].justify = "right"
    for name, value in counts.items():
        table.add_row(name, str(value))
    return table


def print_json(report: "DataclassInstance", **more: object) -> None:
    """Print a report for machines: one object, times in ISO 8601."""
    print(json.dumps(asdict(report) | more, default=_as_json))  # noqa: T201 # it is the answer


def print_json_list(reports: "Iterable[DataclassInstance]") -> None:
    print(json.dumps([asdict(one) for one in reports], default=_as_json))  # noqa: T201 # as above


def _as_json(value: object) -> str:
    return value.isoformat() if isinstance(value, date) else str(value)


def show_table(table: Table) -> None:
    # A cell's text is data: square brackets in it are no markup. Nothing is cut: wide where nobody looks, else folded.
    for column in table.columns:
        column.overflow = "fold"
    console = Console(markup=False, highlight=False)
    if not console.is_terminal:
        console = Console(markup=False, highlight=False, width=240)
    console.print(table)
