"""`consumer sweep` and `consumer reprocess`: whatever is due, or leads by name."""

import json
import sys
from typing import TYPE_CHECKING, Annotated, Never

import typer

from consumer.commands.options import Json, load_settings, require_lead_ids
from consumer.commands.rehearsal import DryRun, rehearse_reprocess, rehearse_sweep
from consumer.errors import ExitCode, leave

if TYPE_CHECKING:
    from consumer.handlers.outcome import Summary
    from consumer.interruption import Interruption

# Heavy imports stand inside the commands: --help is to answer at once.
# ruff: noqa: PLC0415


def sweep(  # noqa: PLR0913, PLR0917 # a parameter for each option
    limit: Annotated[
        int, typer.Option(min=1, max=1_000_000_000, help="Leads at most; the most urgent come first.")
    ] = 10_000,
    max_rate: Annotated[
        float | None, typer.Option(min=0.1, metavar="LEADS_PER_SECOND", help="No faster than this, and evenly.")
    ] = None,
    max_replication_lag: Annotated[
        float | None,
        typer.Option(min=0, metavar="SECONDS", help="Wait while a standby's replay is behind by more than this."),
    ] = None,
    max_active_sessions: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Wait while more of others' sessions are active than this.")
    ] = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Recover everything that is due, once.

    A backfill, or a job for cron. Due is what has a pending event, and what its state shows to be unrecovered,
    however old. Windows that are still open come first, the one that closes soonest leading. Safe to interrupt, to
    repeat and to run beside the daemon: SIGINT or SIGTERM ends it after the batch in hand, a second one at once, and
    the next run goes on from there. To wait for the server, the role needs pg_read_all_stats.
    """
    if dry_run:
        rehearse_sweep(limit, as_json=as_json)
        return

    from consumer.backfill import backfill
    from consumer.interruption import Interruption
    from consumer.reports.terminal import progress_bar, show_summary
    from consumer.throttle import Bounds

    settings, interruption = load_settings(), Interruption()
    bounds = Bounds(max_rate, max_replication_lag, max_active_sessions)
    with progress_bar() as on_progress:
        summary = backfill(settings, limit, on_progress, bounds, interruption)
    result = summary.as_job_result()
    if as_json:
        print(json.dumps(result))
    else:
        show_summary(result)
    _end(summary, interruption)


def _end(summary: "Summary", interruption: "Interruption") -> Never:
    """Say on stderr what was left undone, and end with the exit status that tells it."""
    if interruption.number is not None:
        leave(f"stopped by {interruption.number.name}; the next sweep goes on from here", interruption.exit_code)
    status = ExitCode.LEADS if summary.errors else ExitCode.DONE
    if summary.busy:
        leave(f"leads locked by others: {summary.busy}; they stay pending, and the next sweep has them", status)
    raise typer.Exit(status)


def reprocess(
    lead_ids: Annotated[list[str], typer.Argument(metavar="LEAD_ID…", help="Leads, by lead_id.")],
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Recover leads by name and say what happened and why.

    Parked ones start over. A lead_id is the lead's external_id or, where it has none, its id.
    """
    require_lead_ids(lead_ids)
    if dry_run:
        rehearse_reprocess(lead_ids, as_json=as_json)
        return

    from consumer.backfill import reprocess
    from consumer.handlers.outcome import PROCESSED, SKIPPED
    from consumer.reports.terminal import printable, shortened, show_recoveries

    answers = reprocess(load_settings(), lead_ids)
    if as_json:
        print(json.dumps([answer._asdict() for answer in answers]))
    else:
        show_recoveries(answers)
    undone = [answer for answer in answers if answer.outcome not in PROCESSED | SKIPPED]
    for answer in undone:
        print(f"consumer: {shortened(answer.lead_id)}: {answer.outcome}: {printable(answer.reason)}", file=sys.stderr)
    raise typer.Exit(ExitCode.LEADS if undone else ExitCode.DONE)
