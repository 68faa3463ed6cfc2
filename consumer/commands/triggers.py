"""`consumer triggers`: the triggers that turn matches into events, switched and shown."""

import json
from dataclasses import asdict
from typing import Literal

import typer

from consumer.commands.options import Json, load_settings
from consumer.errors import ExitCode, leave

# Heavy imports stand inside the commands: --help is to answer at once.
# ruff: noqa: PLC0415

triggers = typer.Typer(help="Switch the triggers that turn matches into events.", no_args_is_help=True)


@triggers.command("status", epilog="Example: consumer triggers status")
def triggers_status(as_json: Json = False) -> None:
    """Show whether each trigger is enabled, disabled or missing."""
    from consumer.reports.terminal import show_triggers
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

    Run it as the owner of the host's tables. What was matched meanwhile, the next `consumer sweep` finds.
    """
    _switch("ENABLE")


@triggers.command("disable", epilog="Example: consumer triggers disable")
def triggers_disable() -> None:
    """Stop turning matches into events.

    Run it as the owner of the host's tables. The engine's writes then pass us by, and only sweeps recover them.
    """
    _switch("DISABLE")


def _switch(word: Literal["ENABLE", "DISABLE"]) -> None:
    from consumer.reports.terminal import show_triggers
    from db.engine import open_engine
    from db.trigger_switch import read_states, switch

    with open_engine(load_settings().database, "triggers") as engine:
        switch(engine, word)
        states = read_states(engine)
    if missing := ", ".join(one.name for one in states if one.state == "missing"):
        leave(f"missing: {missing}; `consumer doctor` has the command that makes it anew", ExitCode.DATABASE)
    show_triggers(states)
