"""Help that groups the commands by what they are for, without rich: plain help needs a third of the time."""

from typing import Any

from typer.core import TyperGroup

WORK = "Recover leads"
LOOK = "See how it stands"
DECIDE = "Decide"
SET_UP = "Set up"


class Panels(TyperGroup):
    """Lists the commands under the panel that each names."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002 # typer gives it
        width = max(map(len, self.commands))
        for panel in (WORK, LOOK, DECIDE, SET_UP):
            with formatter.section(panel):
                formatter.write_dl([
                    (name.ljust(width), command.get_short_help_str(formatter.width - width - 6))
                    for name, command in self.commands.items()
                    if getattr(command, "rich_help_panel", None) == panel
                ])  # fmt: skip
