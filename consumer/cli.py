"""The commands. Each says what it will do in --help, and in one line why it could not."""

import io
import json
import os
import sys
import traceback
from dataclasses import asdict, fields
from typing import Annotated, Literal

import typer

from consumer.cli_doctor import doctor
from consumer.cli_grants import grants
from consumer.cli_impact import impact
from consumer.cli_parked import parked
from consumer.cli_rehearsal import DryRun, rehearse_reprocess, rehearse_sweep
from consumer.cli_schema import migrate, uninstall
from consumer.cli_web import web
from consumer.cli_why import why
from consumer.errors import ExitCode, exit_code_of, one_line
from consumer.options import Json, load_settings, require_lead_ids
from consumer.packages import require_own_packages
from consumer.panels import DECIDE, LOOK, SET_UP, WORK, Panels
from consumer.settings import Settings, allowed, is_address, variable_of

# Heavy imports stand inside the commands: --help is to answer at once.
# ruff: noqa: PLC0415

EXIT_STATUS = (
    "Exit status: 0 done; 1 unexpected error; 2 usage or settings; 3 schema missing or outdated; 4 database; "
    "5 some leads failed, are unknown or parked; 130, 143 stopped by a signal before the work was done."
)
SETTINGS = "Settings, from the environment:\n\n\b\n" + "\n".join(
    f"{variable_of(setting)}\n    {setting.metadata['help']}"
    + ("" if is_address(setting) else f" ({allowed(setting)}; default {setting.default or 'none'})")
    for setting in fields(Settings)
)

app = typer.Typer(
    name="consumer",
    cls=Panels,
    help="Recovers matched cabinet leads: link, origin and audit, within milliseconds of the match.",
    epilog=f"{EXIT_STATUS}\n\n{SETTINGS}",
    no_args_is_help=True,
    rich_markup_mode=None,  # plain help needs a third of the time
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
triggers = typer.Typer(help="Switch the triggers that turn matches into events.", no_args_is_help=True)


def _tell_version(wanted: bool) -> None:  # noqa: FBT001 # typer calls it so
    if wanted:
        from importlib.metadata import version

        print(f"consumer {version('cabinet-recovery')}")
        raise typer.Exit


@app.callback()
def consumer(
    _version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_tell_version, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; every failure ends as one line on stderr and a documented exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # an id may hold what the terminal cannot show
    try:
        require_own_packages()
        status = app(standalone_mode=False)
        sys.stdout.flush()
    except typer.TyperException as error:
        _leave(f"{error.format_message()} (see --help)", ExitCode.USAGE)
    except (BrokenPipeError, SystemExit) as ended:
        _leave_quietly(ended)
    except Exception as error:  # noqa: BLE001 # the one place where every error ends
        _leave_with(error)
    else:
        raise SystemExit(status or ExitCode.DONE)


def _leave_quietly(ended: BrokenPipeError | SystemExit) -> None:
    """Whoever read our output had enough of it (typer and rich make a SystemExit of that), or a command has ended."""
    if isinstance(ended, SystemExit) and not isinstance(ended.__context__, BrokenPipeError):
        raise ended
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise SystemExit(ExitCode.DONE)


def _leave_with(error: Exception) -> None:
    raise SystemExit(_tell(error))


def _tell(error: Exception) -> ExitCode:
    """Say on stderr what happened, and return the exit status that goes with it."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    status = exit_code_of(error)
    if status == ExitCode.UNEXPECTED and not isinstance(error, OSError):
        # A defect of ours: whoever mends it needs to know where.
        traceback.print_exception(error)
    print(f"consumer: {one_line(error)}", file=sys.stderr)
    return status


def _leave(text: str, status: ExitCode) -> None:
    print(f"consumer: {text}", file=sys.stderr)
    raise SystemExit(status)


@app.command(rich_help_panel=WORK, epilog="Example: consumer run")
def run() -> None:
    """Run the daemon: recover each lead as it is matched.

    What a notification missed, its sweeps find. It waits for a server that is away, as long as that takes. SIGTERM
    or SIGINT ends it after the batch in hand, a second one at once; SIGHUP rereads the log level.
    Any number may run, on any hosts: they share the work. Logs go to stderr.
    """
    import asyncio

    from consumer.service import Service

    service = Service(load_settings())
    status = ExitCode.DONE
    try:
        asyncio.new_event_loop().run_until_complete(service.run())
    except Exception as error:  # noqa: BLE001 # as in main, which it does not reach
        status = _tell(error)
    # Neither asyncio.run nor a return: both wait for a name that is still being resolved, however long that takes.
    sys.stderr.flush()
    os._exit(status)


@app.command(rich_help_panel=WORK, epilog="Example: consumer sweep --limit 1000")
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
    from consumer.report import progress_bar, show_summary
    from consumer.throttle import Bounds

    settings, interruption = load_settings(), Interruption()
    bounds = Bounds(max_rate, max_replication_lag, max_active_sessions)
    with progress_bar() as on_progress:
        result = backfill(settings, limit, on_progress, bounds, interruption).as_job_result()
    if as_json:
        print(json.dumps(result))
    else:
        show_summary(result)
    if interruption.number is not None:
        _leave(f"stopped by {interruption.number.name}; the next sweep goes on from here", interruption.exit_code)
    raise typer.Exit(ExitCode.LEADS if result["errors"] else ExitCode.DONE)


@app.command(rich_help_panel=WORK, epilog="Example: consumer reprocess cab-004711 --dry-run")
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
    from consumer.report import shortened, show_recoveries

    answers = reprocess(load_settings(), lead_ids)
    if as_json:
        print(json.dumps([answer._asdict() for answer in answers]))
    else:
        show_recoveries(answers)
    undone = [answer for answer in answers if answer.outcome not in PROCESSED | SKIPPED]
    for answer in undone:
        print(f"consumer: {shortened(answer.lead_id)}: {answer.outcome}: {answer.reason}", file=sys.stderr)
    raise typer.Exit(ExitCode.LEADS if undone else ExitCode.DONE)


@app.command(rich_help_panel=LOOK, epilog="Example: consumer status --json")
def status(as_json: Json = False) -> None:
    """Show what is pending, what was not recovered, the impact."""
    from consumer.report import show_status
    from db.engine import open_engine
    from db.reports import read_status

    with open_engine(load_settings().database, "status") as engine:
        found = read_status(engine)
    if as_json:
        print(json.dumps(asdict(found)))
    else:
        show_status(found)


app.command(rich_help_panel=SET_UP, epilog="Example: consumer migrate --plan")(migrate)
app.command(rich_help_panel=SET_UP, epilog="Example: consumer uninstall --yes")(uninstall)


@app.command(rich_help_panel=SET_UP, epilog="Example: consumer demo --keep")
def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Stay up afterwards, until Ctrl-C.")] = False,
) -> None:
    """Show it at work in 20 seconds, on a server of its own.

    A fleet of leads, a matching engine that keeps matching them, and the real consumer process.
    """
    from consumer.demo import demo

    demo(keep=keep)


@triggers.command("status", epilog="Example: consumer triggers status")
def triggers_status(as_json: Json = False) -> None:
    """Show whether each trigger is enabled, disabled or missing."""
    from consumer.report import show_triggers
    from db.engine import open_engine
    from db.trigger_switch import read_states

    with open_engine(load_settings().database, "triggers") as engine:
        states = read_states(engine)
    if as_json:
        print(json.dumps([asdict(state) for state in states]))
    else:
        show_triggers(states)


@triggers.command("enable", epilog="Example: consumer triggers enable")
def triggers_enable() -> None:
    """Turn matches into events again.

    What was matched meanwhile, the next `consumer sweep` finds.
    """
    _switch("ENABLE")


@triggers.command("disable", epilog="Example: consumer triggers disable")
def triggers_disable() -> None:
    """Stop turning matches into events.

    The engine's writes then pass us by, and only sweeps recover them.
    """
    _switch("DISABLE")


def _switch(word: Literal["ENABLE", "DISABLE"]) -> None:
    from consumer.report import show_triggers
    from db.engine import open_engine
    from db.trigger_switch import read_states, switch

    with open_engine(load_settings().database, "triggers") as engine:
        switch(engine, word)
        states = read_states(engine)
    if missing := ", ".join(one.name for one in states if one.state == "missing"):
        _leave(f"missing: {missing}; run its file in db/triggers as the table's owner", ExitCode.DATABASE)
    show_triggers(states)


app.command(rich_help_panel=LOOK, epilog="Example: consumer impact --since 2026-01-01 --format csv")(impact)
app.command(rich_help_panel=LOOK, epilog="Example: consumer why cab-004711")(why)
app.command(rich_help_panel=LOOK, epilog="Example: consumer doctor")(doctor)
app.command(rich_help_panel=LOOK, epilog="Example: consumer web --port 8080")(web)
app.command(rich_help_panel=SET_UP, epilog="Example: consumer grants --apply")(grants)
app.add_typer(parked, name="parked", rich_help_panel=DECIDE)
app.add_typer(triggers, name="triggers", rich_help_panel=DECIDE)
