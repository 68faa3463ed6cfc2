"""`consumer run`: the daemon."""

import os

from consumer.commands.options import load_settings
from consumer.errors import ExitCode, tell

# Heavy imports stand inside the commands: --help is to answer at once.
# ruff: noqa: PLC0415


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
    except Exception as error:  # noqa: BLE001 # as in cli.main, which it does not reach
        status = tell(error)
    # Neither asyncio.run nor a return: both wait for a name that is still being resolved, however long that takes.
    os._exit(status)
