"""`consumer migrate` and `consumer uninstall`: the service's schema comes, is renewed, and goes."""

import sys
from contextlib import closing
from typing import Annotated

import typer

from consumer.commands.options import load_settings
from consumer.errors import ExitCode, leave

# Heavy imports stand inside the commands: --help is to answer at once.
# ruff: noqa: PLC0415


def _tell(line: str) -> None:
    print(line, file=sys.stderr)


def migrate(
    show_plan: Annotated[
        bool, typer.Option("--plan", help="Print what would be created, replaced, dropped and left; change nothing.")
    ] = False,
    as_sql: Annotated[bool, typer.Option("--sql", help="Print it as a script for psql; change nothing.")] = False,
) -> None:
    """Bring the service's schema up to date.

    Run it as the owner of the host's tables. These are created only where all of them are missing, and otherwise left
    as they are; where they do not fit, all that is wrong is listed, nothing is changed and the exit status is 3. Safe
    to interrupt, to repeat and to start twice. In the host's database it waits for locks a tenth of a second at a time,
    so that nobody queues up behind it, and says who has them.
    """
    from db.host import HostDoesNotFit
    from db.migrate import migrate

    if show_plan and as_sql:
        raise typer.BadParameter("give --plan or --sql, not both")
    address = load_settings().database
    try:
        if show_plan or as_sql:
            _foretell(as_sql=as_sql)
            return
        migrate(address, tell=_tell)
    except HostDoesNotFit as error:
        for misfit in error.misfits:
            _tell(f"  {misfit}")
        raise
    _tell("the schema is up to date")


def _foretell(*, as_sql: bool) -> None:
    from consumer.reports.terminal import show_migration
    from db.host import open_session, require_fitting_host
    from db.migrate import write_script
    from db.plan import plan

    address = load_settings().database
    with closing(open_session(address, "migrate")) as connection:
        connection.execute("SET default_transaction_read_only = on")
        require_fitting_host(connection)
        found = write_script(connection, address) if as_sql else plan(connection, address)
    if not found:
        _tell("nothing is due: the schema is up to date")
    elif isinstance(found, str):
        print(found, end="")
    else:
        show_migration(found)


def uninstall(
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    drop_audit: Annotated[
        bool, typer.Option("--drop-audit", help="Drop the audit as well, which is kept otherwise.")
    ] = False,
) -> None:
    """Remove the service from the database.

    Run it as the owner of the host's tables. The host's schema is left as it was. Triggers, index, views and tables of
    ours go; views of the host's that were replaced come back as they were. The audit stays unless told otherwise. What
    was recovered stays, as do the rights that roles were given on the host's tables, but for the service's own roles.
    Stop every consumer before: while one is connected, this is refused. Safe to interrupt and to repeat; it waits for
    locks as `consumer migrate` does.
    """
    from db.uninstall import Installed, look, uninstall

    address = load_settings().database
    found: Installed = look(address, drop_audit=drop_audit)
    if not found.has_something:
        _tell("there is nothing to remove")
        return
    if not yes:
        _ask(found.in_words)
    uninstall(address, tell=_tell, drop_audit=drop_audit)
    _tell("the service is removed")


def _ask(what: str) -> None:
    if not sys.stdin.isatty():
        raise typer.BadParameter("nobody can be asked here: give --yes")
    try:
        is_agreed = typer.confirm(f"Remove the service from {what}?", err=True)
    except typer.Abort:  # by Ctrl-C or Ctrl-D, which leave the cursor behind the question
        is_agreed = False
        _tell("")
    if not is_agreed:
        leave("nothing was removed", ExitCode.INTERRUPTED)
