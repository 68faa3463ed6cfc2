"""Bringing the service's schema up to date, for the command and for the demo."""

import logging
from collections.abc import Callable
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script.revision import ResolutionError
from alembic.util import CommandError
from psycopg.conninfo import make_conninfo

import migrations
from db.connect import Address, SchemaMismatch, TableBusy
from migrations.execution import HostTableBusy


def migrate(address: Address, tell: Callable[[str], None] = lambda _line: None) -> None:
    """Run all migrations that are due; `tell` is given a line for each, and for what was left as it is.

    Safe to interrupt and to repeat, and to start twice at once: the second waits. Raises TableBusy, SchemaMismatch
    where the schema is newer than this code, and psycopg's or SQLAlchemy's errors as they come.
    """
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent).replace("%", "%%"))
    config.attributes["url"] = make_conninfo(**address.parameters("migrate"))  # type: ignore[arg-type] # libpq's keywords
    logger = logging.getLogger("alembic")
    handler = _Telling(tell)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        command.upgrade(config, "head")
    except HostTableBusy as error:
        raise TableBusy(str(error)) from error
    except CommandError as error:
        if not isinstance(error.__cause__, ResolutionError):
            raise
        raise SchemaMismatch(
            "the service's schema is newer than this program: install the release that made it, or a later one"
        ) from error
    finally:
        logger.removeHandler(handler)


class _Telling(logging.Handler):
    """Passes on what a person wants to know: the steps, not Alembic's remarks on itself."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        super().__init__()
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if text.startswith("Running ") or record.name == "alembic.cabinet_recovery":
            self._tell(text)
