"""Answers as people read them: tables on the terminal, plain text where there is none."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from consumer.handlers.outcome import JobResult, Recovery

if TYPE_CHECKING:  # SQLAlchemy takes a third of a second, and a sweep has no use for it
    from db.reports import ParkedLead, Status
    from db.trigger_switch import TriggerState

ERRORS_SHOWN = 10
ID_SHOWN = 60


def shortened(lead_id: str) -> str:
    """A lead id that fits a line, however long it is and whatever characters it has."""
    lead_id = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in lead_id)
    return lead_id if len(lead_id) <= ID_SHOWN else f"{lead_id[:ID_SHOWN]}… ({len(lead_id)} characters)"


@contextmanager
def progress_bar() -> Iterator[Callable[[int, int], None]]:
    """A bar on the terminal (stderr), nothing elsewhere; yields the function to tell it (done, total)."""
    console = Console(stderr=True)
    columns = (TextColumn("recovering"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=None)

        def on_progress(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        yield on_progress


def show_summary(result: JobResult) -> None:
    counts = {key: value for key, value in result.items() if key != "errors"}
    _show(_two_columns("Sweep", counts | {"errors": len(result["errors"])}))
    for error in result["errors"][:ERRORS_SHOWN]:
        Console(stderr=True).print(f"  {error}", markup=False, highlight=False)
    if (more := len(result["errors"]) - ERRORS_SHOWN) > 0:
        Console(stderr=True).print(f"  … and {more} more: see ops.cabinet_recovery_exception")


def show_recoveries(recoveries: Iterable[Recovery]) -> None:
    table = Table("lead", "outcome", "link", "origin", "why", box=None, pad_edge=False)
    for one in recoveries:
        table.add_row(shortened(one.lead_id), one.outcome, one.link or "-", one.origin or "-", one.reason)
    _show(table)


def show_status(status: "Status") -> None:
    oldest = status.oldest_pending_seconds
    _show(
        _two_columns(
            "Pending",
            {
                "leads": status.pending_leads,
                "due now": status.due_leads,
                "oldest": "-" if oldest is None else f"{oldest:.1f} s",
            },
        )
    )
    _show(_two_columns("Not recovered", status.exceptions | {"parked": status.parked_leads}))
    _show(_two_columns("Impact within 14 days", status.impact_buckets))


def show_parked(leads: Sequence["ParkedLead"], total: int) -> None:
    table = Table("lead", "parked at", "attempts", "error", box=None, pad_edge=False)
    for one in leads:
        error = f"{one.sqlstate or ''} {one.message or ''}".strip() + ("; the lead is gone" if one.is_gone else "")
        table.add_row(shortened(one.lead_id), f"{one.parked_at:%Y-%m-%d %H:%M:%S %Z}", str(one.attempts), error)
    _show(table)
    Console(stderr=True).print(f"{len(leads)} of {total} parked leads", highlight=False)


def show_fields(title: str, fields: Mapping[str, object]) -> None:
    table = Table(title, "", box=None, pad_edge=False)
    for name, value in fields.items():
        table.add_row(name.replace("_", " "), "-" if value is None else str(value))
    _show(table)


def show_triggers(states: Sequence["TriggerState"]) -> None:
    table = Table("trigger", "table", "state", box=None, pad_edge=False)
    for one in states:
        table.add_row(one.name, one.table, one.state)
    _show(table)


def _two_columns(title: str, counts: Mapping[str, object]) -> Table:
    table = Table(title, "", box=None, pad_edge=False, min_width=40)
    table.columns[1].justify = "right"
    for name, value in counts.items():
        table.add_row(name, str(value))
    return table


def _show(table: Table) -> None:
    # A cell's text is data: square brackets in it are no markup. Wide where nobody looks, so that nothing is cut.
    console = Console(markup=False, highlight=False)
    if not console.is_terminal:
        console = Console(markup=False, highlight=False, width=240)
    console.print(table)
