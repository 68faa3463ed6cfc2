"""The three roles by the names that a site gives them, and the rights that each of them has."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql

from db.connect import Address, refusal

SOURCE = Path(__file__).with_name("roles.sql")
NAME_BYTES = 63  # longer ones are cut by the server: two could become one


class InvalidRoleName(ValueError):
    """No role can have this name, or two of the three have the same."""


@dataclass(frozen=True)
class Roles:
    """Who owns what is ours, who works with it, and who may look at it."""

    owner: str = "cabinet_recovery_owner"
    service: str = "cabinet_recovery_service"
    reader: str = "cabinet_recovery_reader"

    def __post_init__(self) -> None:
        for name in (self.owner, self.service, self.reader):
            _require_role_name(name)
        if len({self.owner, self.service, self.reader}) < len(("owner", "service", "reader")):
            raise InvalidRoleName("owner, service and reader must be three roles")

    def as_sql(self) -> str:
        """The script that makes the roles and gives them their rights, for psql as for us; it may be repeated."""
        text = SOURCE.read_text(encoding="utf-8")
        _, commands = text.split("\nBEGIN;", 1)  # above it, the comment speaks of the names as they stand in the file
        names = "|".join(vars(Roles()).values())
        pattern = rf"'({names})'|\b({names})\b"
        return text.removesuffix(commands) + re.sub(pattern, self._named, commands)

    def _named(self, found: re.Match[str]) -> str:
        literal, identifier = found.groups()
        name = next(vars(self)[role] for role, default in vars(Roles()).items() if default in {literal, identifier})
        return (sql.Literal(name) if literal else sql.Identifier(name)).as_string()


def _require_role_name(name: str) -> None:
    try:
        length = len(name.encode())
    except UnicodeEncodeError:
        raise InvalidRoleName("a role's name is not valid UTF-8") from None
    if not 0 < length <= NAME_BYTES:
        raise InvalidRoleName(f"a role's name has 1 to {NAME_BYTES} bytes")
    # Within DO $$ … $$ it would end the block.
    if not name.isprintable() or "$" in name or name.startswith("pg_") or name in {"public", "none"}:
        raise InvalidRoleName("a role's name may not be a reserved one, nor have control characters or $ in it")


def apply(roles: Roles, address: Address, tell: Callable[[str], None] = lambda _line: None) -> None:
    """Make the roles and give them their rights, all or nothing; `tell` is given the server's warnings.

    Raises db.connect.DatabaseError, and psycopg.Error where the role at the address may not give them.
    """
    try:
        connection = psycopg.connect(**address.parameters("grants"), autocommit=True)  # type: ignore[arg-type] # libpq's
    except psycopg.OperationalError as error:
        raise refusal(error, address) from error
    with connection:
        connection.add_notice_handler(lambda notice: _pass_on(notice, tell))
        connection.execute(roles.as_sql().encode())


def _pass_on(notice: psycopg.errors.Diagnostic, tell: Callable[[str], None]) -> None:
    if notice.severity_nonlocalized == "WARNING":
        tell(f"warning: {notice.message_primary}")
