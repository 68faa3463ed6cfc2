"""The commands. Each says what it will do in --help, and in one line why it could not."""

import io
import os
import sys
from dataclasses import fields
from textwrap import fill
from typing import Annotated

import typer

from consumer.commands.demo import demo
from consumer.commands.doctor import doctor
from consumer.commands.grants import grants
from consumer.commands.impact import impact
from consumer.commands.panels import DECIDE, LOOK, SET_UP, WORK, Panels
from consumer.commands.parked import parked
from consumer.commands.recovery import reprocess, sweep
from consumer.commands.run import run
from consumer.commands.schema import migrate, uninstall
from consumer.commands.status import status
from consumer.commands.triggers import triggers
from consumer.commands.web import web
from consumer.commands.why import why
from consumer.errors import ExitCode, leave, tell
from consumer.packages import require_own_packages
from consumer.settings import Settings, allowed, is_address, variable_of

EXIT_STATUS = (
    "Exit status: 0 done; 1 unexpected error; 2 usage or settings; 3 schema missing or outdated; 4 database; "
    "5 some leads failed, are unknown or parked; 130, 143 stopped by a signal before the work was done."
)
SETTINGS = "Settings, from the environment:\n\n\b\n" + "\n".join(
    f"{variable_of(setting)}\n"
    + fill(
        setting.metadata["help"]
        + ("" if is_address(setting) else f" ({allowed(setting)}; default {setting.default or 'none'})"),
        width=76,  # help is at most 80 wide, and indents this by two
        initial_indent=" " * 4,
        subsequent_indent=" " * 4,
        break_on_hyphens=False,
    )
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


def _tell_version(wanted: bool) -> None:  # noqa: FBT001 # typer calls it so
    if wanted:
        from importlib.metadata import version  # noqa: PLC0415 # heavy

        print(f"consumer {version('cabinet-recovery')}")
        raise typer.Exit


@app.callback()
def consumer(
    _version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_tell_version, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


app.command(rich_help_panel=WORK, epilog="Example: consumer run")(run)
app.command(rich_help_panel=WORK, epilog="Example: consumer sweep --limit 1000")(sweep)
app.command(rich_help_panel=WORK, epilog="Example: consumer reprocess cab-004711 --dry-run")(reprocess)
app.command(rich_help_panel=LOOK, epilog="Example: consumer status --json")(status)
app.command(rich_help_panel=LOOK, epilog="Example: consumer impact --since 2026-01-01 --format csv")(impact)
app.command(rich_help_panel=LOOK, epilog="Example: consumer why cab-004711")(why)
app.command(rich_help_panel=LOOK, epilog="Example: consumer doctor")(doctor)
app.command(rich_help_panel=LOOK, epilog="Example: consumer web --port 8080")(web)
app.add_typer(parked, name="parked", rich_help_panel=DECIDE)
app.add_typer(triggers, name="triggers", rich_help_panel=DECIDE)
app.command(rich_help_panel=SET_UP, epilog="Example: consumer migrate --plan")(migrate)
app.command(rich_help_panel=SET_UP, epilog="Example: consumer grants --apply")(grants)
app.command(rich_help_panel=SET_UP, epilog="Example: consumer demo --keep")(demo)
app.command(rich_help_panel=SET_UP, epilog="Example: consumer uninstall --yes")(uninstall)


def main() -> None:
    """Run the command line; every failure ends as one line on stderr and a documented exit status."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed, as by 2>&-
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115, PTH123 # until the end
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # an id may hold what the terminal cannot show
    try:
        require_own_packages()
        code = app(standalone_mode=False)
        sys.stdout.flush()
    except typer.TyperException as error:
        leave(f"{error.format_message()} (see --help)", ExitCode.USAGE)
    except (BrokenPipeError, SystemExit) as ended:
        _leave_quietly(ended)
    except Exception as error:  # noqa: BLE001 # the one place where every error ends
        raise SystemExit(tell(error)) from None
    else:
        raise SystemExit(code or ExitCode.DONE)


def _leave_quietly(ended: BrokenPipeError | SystemExit) -> None:
    """Whoever read our output had enough of it (typer and rich make a SystemExit of that), or a command has ended."""
    if isinstance(ended, SystemExit) and not isinstance(ended.__context__, BrokenPipeError):
        raise ended
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise SystemExit(ExitCode.DONE)
