"""`consumer doctor`: is everything as it must be, and what mends it where not."""

import typer

from consumer.commands.options import Json, load_settings
from consumer.errors import ExitCode

# Heavy imports stand inside the commands: --help is to answer at once.
# ruff: noqa: PLC0415


def doctor(as_json: Json = False) -> None:
    """Check what is known to go wrong, and say what mends it.

    From the connection to the leads themselves: each is ok, warn or fail, or skipped where an earlier failure leaves
    nothing to look at. Nothing that it writes stays: a match that it makes to see the triggers fire is rolled back. The
    exit status is 5 where anything failed, an unreachable database too, and otherwise 0.
    """
    from consumer.doctor import examine
    from consumer.reports.terminal import print_json_list, show_findings

    findings = list(examine(load_settings()))
    if as_json:
        print_json_list(findings)
    else:
        show_findings(findings)
    failed = any(one.state == "fail" for one in findings)
    raise typer.Exit(ExitCode.LEADS if failed else ExitCode.DONE)
