"""Bringing the service's schema up to date, for the command and for the demo, or as a script for somebody else."""

import io
import logging
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.script.revision import ResolutionError
from alembic.util import CommandError
from psycopg.conninfo import make_conninfo

import migrations
from db.connect import Address, SchemaMismatch, TableBusy
from db.host import misfits_query, open_session, require_fitting_host
from migrations.execution import HostTableBusy

NEWER = "the service's schema is newer than this program: install the release that made it, or a later one"

Tell = Callable[[str], None]


def migrate(address: Address, tell: Tell = lambda _line: None) -> None:
    """Run all migrations that are due; `tell` is given a line for each, and for what was left as it is.

    Safe to interrupt and to repeat, and to start twice at once: the second waits. Raises db.host.HostDoesNotFit before
    anything is touched, TableBusy, SchemaMismatch where the schema is newer than this code, and psycopg's or
    SQLAlchemy's errors as they come.
    """
    with closing(open_session(address, "migrate")) as connection:
        require_fitting_host(connection)
    with running(address, tell) as config:
        command.upgrade(config, "head")


def write_script(connection: psycopg.Connection, address: Address) -> str:
    """What `migrate` would do now, as SQL for psql; "" where nothing is due.

    Raises SchemaMismatch where the schema is newer than this code.
    """
    found = read_revision(connection)
    with running(address) as config:
        if found == ScriptDirectory.from_config(config).get_current_head():
            return ""
        config.output_buffer = io.StringIO()
        command.upgrade(config, f"{found or 'base'}:head", sql=True)
        return _HEAD.replace("host_misfits", misfits_query()) + config.output_buffer.getvalue()


def read_revision(connection: psycopg.Connection) -> str | None:
    """The migration at which the service's schema stands, or None where there is none of it."""
    try:
        row = connection.execute("SELECT version_num FROM ops.cabinet_recovery_alembic_version").fetchone()
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
        return None
    return row[0] if row else None


# Whoever runs the script sees all that does not fit, and nothing has been changed.
_HEAD = """-- What `consumer migrate` would do, for psql: psql -X -f THIS_FILE DATABASE
-- It stops at the first error. Where it was interrupted, write it anew; what it has done stays.
\\set ON_ERROR_STOP on

DO $fitting$
DECLARE
    misfits text;
BEGIN
    SELECT string_agg(misfit, E'\\n') INTO misfits FROM (
host_misfits
    ) AS found;
    IF misfits IS NOT NULL THEN
        RAISE EXCEPTION 'the host''s schema does not fit; nothing was changed' USING DETAIL = misfits;
    END IF;
END
$fitting$;

"""


@contextmanager
def running(address: Address, tell: Tell = lambda _line: None) -> Iterator[Config]:
    """Alembic's configuration for this database; what its log says in the block that is news, `tell` is told."""
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent).replace("%", "%%"))
    config.attributes["url"] = make_conninfo(**address.parameters("migrate"))  # type: ignore[arg-type] # libpq's keywords
    logger = logging.getLogger("alembic")
    handler = _Telling(tell)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield config
    except HostTableBusy as error:
        raise TableBusy(str(error)) from error
    except sa.exc.InvalidRequestError as error:
        # Ctrl-C severs the connection, and Alembic, which tidies up, stumbles over that.
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from error
        raise
    except CommandError as error:
        if not isinstance(error.__cause__, ResolutionError):
            raise
        raise SchemaMismatch(NEWER) from error
    finally:
        logger.removeHandler(handler)


class _Telling(logging.Handler):
    """Passes on what a person wants to know: the steps, not Alembic's remarks on itself."""

    def __init__(self, tell: Tell) -> None:
        super().__init__()
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if text.startswith("Running ") or record.name == "alembic.cabinet_recovery":
            self._tell(text)
