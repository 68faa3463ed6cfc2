"""Who the code under test is: a login that has the service's rights and no others, as at a careful site."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from db.connect import Address
from db.roles import Roles, apply

PASSWORD = "only for tests"


class Login:
    """A login that is a member of the service's role; names and all are unique, for a server may be shared."""

    def __init__(self) -> None:
        unique = f"cabinet_recovery_test_{secrets.token_hex(4)}"
        self.name = f"{unique}_login"
        self.roles = Roles(f"{unique}_owner", f"{unique}_service", f"{unique}_reader")

    def let_in(self, owner_conninfo: str) -> None:
        """Give the roles their rights in a migrated database."""
        apply(self.roles, Address.parse(owner_conninfo))

    def conninfo(self, owner_conninfo: str) -> str:
        """The same database, as the service finds it."""
        return make_conninfo(owner_conninfo, user=self.name, password=PASSWORD)


@contextmanager
def service_login(admin_conninfo: str) -> Iterator[Login]:
    """Make the login, and remove it with its roles once no database knows them any more."""
    login = Login()
    service, name = sql.Identifier(login.roles.service), sql.Identifier(login.name)
    with psycopg.connect(admin_conninfo, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(service))
        make = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {} IN ROLE {}")
        connection.execute(make.format(name, PASSWORD, service))
    yield login
    with psycopg.connect(admin_conninfo, autocommit=True) as connection:
        for role in (login.name, *vars(login.roles).values()):
            connection.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(role)))
