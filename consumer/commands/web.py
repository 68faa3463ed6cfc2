"""`consumer web`: the live page and the JSON API."""

import os
from importlib.util import find_spec
from typing import Annotated

import typer

from consumer.commands.options import load_settings
from consumer.errors import ExitCode, SettingsError

# Heavy imports stand inside the commands: --help is to answer at once.
# ruff: noqa: PLC0415

EXTRA = ("starlette", "uvicorn", "jinja2")


def web(
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="The address that it is reached at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="0: any that is free; the log says which.")] = 8080,
    behind_proxy: Annotated[
        bool, typer.Option("--behind-proxy", help="A proxy in front of it authenticates: any address is allowed.")
    ] = False,
    allowed_host: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A host name that browsers ask for; may be repeated.")
    ] = None,
) -> None:
    """Show impact and what is pending, live: a page and JSON.

    A page for people and JSON for programs. It only reads: let DATABASE_URL name a login that has the reader's role.
    It knows nobody and shows no personal data; without a proxy that authenticates it is reached from this host alone.
    SIGTERM or SIGINT ends it.
    """
    if missing := [name for name in EXTRA if find_spec(name) is None]:
        raise SettingsError(f"{missing[0]} is not installed: pip install 'cabinet-recovery[web]'")
    import asyncio
    from contextlib import closing

    from consumer.web.server import Door, serve

    door = Door(host, port, allowed_host or ())
    if not (door.is_loopback or behind_proxy):
        raise SettingsError(
            f"{host} is reached by others, and it asks nobody who they are: put a proxy that authenticates in front "
            "of it and say so by --behind-proxy"
        )
    with closing(asyncio.new_event_loop()) as loop:
        loop.run_until_complete(serve(load_settings(), door))
    # Not a return: a question to a server that is away would be waited for.
    os._exit(ExitCode.DONE)
