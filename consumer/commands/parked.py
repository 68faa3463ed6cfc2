"""`consumer parked`: the leads that were given up, why, and how they are tried again."""

import json
from dataclasses import asdict
from typing import Annotated

import typer

from consumer.commands.options import Json, load_settings, require_lead_ids
from consumer.errors import ExitCode, leave

# Heavy imports stand inside the commands: --help is to answer at once.
# ruff: noqa: PLC0415

parked = typer.Typer(help="Show the leads given up because of their data; retry them.", no_args_is_help=True)


@parked.command("list", epilog="Example: consumer parked list --limit 20")
def list_parked(
    limit: Annotated[int, typer.Option(min=1, max=1_000_000, help="Leads at most; the latest come first.")] = 100,
    as_json: Json = False,
) -> None:
    """List the parked leads, with what the database said of them."""
    from consumer.reports.terminal import show_parked
    from db import reports
    from db.engine import open_engine

    with open_engine(load_settings().database, "parked") as engine:
        leads, total = reports.list_parked(engine, limit), reports.count_parked(engine)
    if as_json:
        print(json.dumps([asdict(lead) for lead in leads], default=str))
    else:
        show_parked(leads, total)


@parked.command(epilog="Example: consumer parked show cab-004711")
def show(
    lead_id: Annotated[str, typer.Argument(metavar="LEAD_ID")],
    as_json: Json = False,
) -> None:
    """Show all that is known of one parked lead: the error, the attempts, and what would be done for it now."""
    from consumer.reports.terminal import shortened, show_fields
    from db import reports
    from db.engine import open_engine

    require_lead_ids([lead_id])
    with open_engine(load_settings().database, "parked") as engine:
        found = reports.read_parked(engine, lead_id)
    if found is None:
        leave(f"{shortened(lead_id)} is not parked; see `consumer parked list`", ExitCode.LEADS)
    if as_json:
        print(json.dumps(found, default=str))
    else:
        show_fields(shortened(lead_id), found)


@parked.command(epilog="Example: consumer parked retry --all")
def retry(
    lead_ids: Annotated[list[str] | None, typer.Argument(metavar="[LEAD_ID…]", help="Leads, by lead_id.")] = None,
    retry_all: Annotated[bool, typer.Option("--all", help="Every parked lead.")] = False,
    as_json: Json = False,
) -> None:
    """Try parked leads again, now, with their attempts counted from the start.

    Mend the data first: a lead that fails again waits 1 s … 1 h between attempts, and is parked again in the end.
    Without this, a parked lead is tried again when the engine matches it anew.
    """
    from consumer.backfill import reprocess
    from consumer.handlers.outcome import PROCESSED, SKIPPED
    from consumer.reports.terminal import progress_bar, shortened, show_recoveries
    from db import reports
    from db.engine import open_engine

    if bool(lead_ids) == retry_all:
        raise typer.BadParameter("name the leads, or give --all")
    require_lead_ids(lead_ids or ())
    settings = load_settings()
    with open_engine(settings.database, "parked") as engine:
        are_parked = reports.find_parked(engine, lead_ids)
    with progress_bar() as on_progress:
        answers = reprocess(settings, are_parked, on_progress)
    if as_json:
        print(json.dumps([answer._asdict() for answer in answers]))
    else:
        show_recoveries(answers)
    not_parked = [lead_id for lead_id in lead_ids or () if lead_id not in are_parked]
    for lead_id in not_parked:
        typer.echo(f"consumer: {shortened(lead_id)} is not parked; see `consumer reprocess`", err=True)
    undone = [answer for answer in answers if answer.outcome not in PROCESSED | SKIPPED]
    raise typer.Exit(ExitCode.LEADS if undone or not_parked else ExitCode.DONE)
