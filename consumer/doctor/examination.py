"""What the doctor examines, and what is found."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, LiteralString

import psycopg
from psycopg.rows import dict_row

from consumer.settings import Settings
from db import checks, connect
from db.moments import read_every_moment

State = Literal["ok", "warn", "fail", "skipped"]
LOOK_SECONDS, QUICK_SECONDS = 30, 5
GRANT = "consumer grants --apply, as the owner of the tables"

Row = dict[str, Any]


@dataclass(frozen=True)
class Finding:
    """What was found by one check, and the command that mends it."""

    check: str
    state: State
    text: str
    mend: str = ""


class Patient:
    """A database under examination: what is asked of it is within bounds, and leaves nothing behind."""

    def __init__(self, settings: Settings, clock: Callable[[], datetime]) -> None:
        self.settings = settings
        self.clock = clock
        self.connection = open_connection(settings.database)

    def ask(self, query: LiteralString, seconds: int = QUICK_SECONDS, **parameters: Any) -> list[Row]:
        """The rows, from a transaction of its own that is rolled back."""
        with self.connection.transaction(force_rollback=True):
            self.connection.execute(checks.SET_UP, {"statement_timeout_ms": 1000 * seconds})
            return self.connection.execute(query, parameters).fetchall()

    def ask_one(self, query: LiteralString, seconds: int = QUICK_SECONDS, **parameters: Any) -> Row:
        return self.ask(query, seconds, **parameters)[0]


Check = Callable[[Patient], Finding]


def open_connection(address: connect.Address) -> psycopg.Connection[Row]:
    """Connect, in autocommit; raises db.connect.DatabaseError."""
    try:
        connection = psycopg.connect(**address.parameters("doctor"), autocommit=True, row_factory=dict_row)  # type: ignore[arg-type] # libpq's keywords
    except psycopg.OperationalError as error:
        raise connect.refusal(error, address) from error
    read_every_moment(connection)
    return connection


def needed_rights() -> str:
    """Every right that the service needs, as the query for those that are missing takes them."""
    return json.dumps([
        {"relation": relation, "privilege": privilege, "column_name": column}
        for relation, privileges in checks.RIGHTS.items()
        for privilege, columns in privileges.items()
        for column in (*columns.split(),) or (None,)
    ])  # fmt: skip
