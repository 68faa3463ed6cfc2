"""`consumer status`: what is pending, and what was not recovered."""

import json
from dataclasses import asdict

from consumer.commands.options import Json, load_settings

# Heavy imports stand inside the commands: --help is to answer at once.
# ruff: noqa: PLC0415


def status(as_json: Json = False) -> None:
    """Show what is pending, what was not recovered, the impact."""
    from consumer.reports.terminal import show_status
    from db.engine import open_engine
    from db.reports import read_status

    with open_engine(load_settings().database, "status") as engine:
        found = read_status(engine)
    if as_json:
        print(json.dumps(asdict(found)))
    else:
        show_status(found)
