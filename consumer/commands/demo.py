"""`consumer demo`: all of it at work, on a server of its own."""

from typing import Annotated

import typer

# Heavy imports stand inside the commands: --help is to answer at once.
# ruff: noqa: PLC0415


def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Stay up afterwards, until Ctrl-C.")] = False,
) -> None:
    """Show it at work in 20 seconds, on a server of its own.

    A fleet of leads, a matching engine that keeps matching them, and the real consumer process.
    """
    from consumer.demo import demo

    demo(keep=keep)
