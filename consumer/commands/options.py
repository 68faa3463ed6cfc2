"""What several commands take alike."""

from collections.abc import Iterable
from typing import Annotated

import typer

from consumer.settings import Settings

Json = Annotated[bool, typer.Option("--json", help="For machines: JSON on standard output.")]


def load_settings() -> Settings:
    """Read the settings and set up the log as they say."""
    from consumer import log  # noqa: PLC0415 # heavy, and --help needs none of it

    settings = Settings.from_environment()
    log.configure(settings)
    return settings


def require_lead_ids(lead_ids: Iterable[str]) -> None:
    """Refuse, as a usage error, what cannot be a lead id."""
    for lead_id in lead_ids:
        if not lead_id:
            raise typer.BadParameter("a lead id is empty")
        if "\0" in lead_id:
            raise typer.BadParameter("a lead id holds a NUL, which no text in PostgreSQL can")
        if not lead_id.isascii() and lead_id.encode(errors="replace").decode() != lead_id:
            raise typer.BadParameter("a lead id is not valid UTF-8")
