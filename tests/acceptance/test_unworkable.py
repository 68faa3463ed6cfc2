"""A database that a command cannot work with, a standby among them: which exit status, and what it says."""

import os
import socket
from collections.abc import Iterator

import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from db.embedded import EmbeddedServer
from tests.database import Database
from tests.processes import (
    SECRET,
    WORKING,
    InThisProcess,
    over_tcp,
    refused,
    run_command,
    standby_of,
)
from tests.servers import TemplateDatabase


class TestADatabaseThatCannotBeWorkedWith:
    @pytest.mark.parametrize("command", [*WORKING, ("migrate",)], ids=" ".join)
    def test_because_no_server_answers_ends_with_4(self, call: InThisProcess, command: tuple[str, ...]) -> None:
        line = refused(call(*command, DATABASE_URL=f"postgresql://fleet:{SECRET}@127.0.0.1:1/fleet"), 4)

        assert "127.0.0.1" in line
        assert "refused" in line

    @pytest.mark.parametrize("command", [*WORKING, ("migrate",)], ids=" ".join)
    def test_because_the_password_is_wrong_ends_with_4(
        self, call: InThisProcess, server: EmbeddedServer, remote: str, command: tuple[str, ...]
    ) -> None:
        line = refused(call(*command, DATABASE_URL=over_tcp(server, remote, password=SECRET)), 4)

        assert 'password authentication failed for user "postgres"' in line

    @pytest.mark.slow
    @pytest.mark.parametrize("command", [*WORKING, ("migrate",)], ids=" ".join)
    def test_because_the_server_accepts_and_never_answers_ends_with_4(self, command: tuple[str, ...]) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            address = f"postgresql://fleet:{SECRET}@127.0.0.1:{silent.getsockname()[1]}/fleet"

            done = run_command(*command, url=address)

        assert "timeout" in refused(done, 4)

    def test_because_it_does_not_exist_ends_with_4(self, call: InThisProcess, database: Database) -> None:
        assert "does not exist" in refused(call("sweep", DATABASE_URL=f"{database.url} dbname=nowhere"), 4)

    @pytest.mark.parametrize("command", WORKING, ids=" ".join)
    def test_because_the_schema_is_missing_ends_with_3(
        self, call: InThisProcess, server_url: str, command: tuple[str, ...]
    ) -> None:
        with TemplateDatabase(server_url, prepare=lambda _: None) as empty:
            url = empty.fresh()
            line = refused(call(*command, DATABASE_URL=url), 3)
            empty.drop(url)

        assert line == "the service's schema is missing: run `consumer migrate`"

    @pytest.mark.parametrize("command", WORKING, ids=" ".join)
    def test_because_the_schema_is_outdated_ends_with_3(
        self, call: InThisProcess, database: Database, command: tuple[str, ...]
    ) -> None:
        database.run("UPDATE ops.cabinet_recovery_alembic_version SET version_num = '0004'")

        line = refused(call(*command, DATABASE_URL=database.url), 3)

        assert "outdated" in line
        assert "run `consumer migrate`" in line

    def test_because_our_version_table_is_empty_ends_with_3(self, call: InThisProcess, database: Database) -> None:
        """As a downgrade leaves it."""
        database.run("DELETE FROM ops.cabinet_recovery_alembic_version")

        assert "run `consumer migrate`" in refused(call("sweep", DATABASE_URL=database.url), 3)

    def test_because_the_role_lacks_its_rights_ends_with_4(self, call: InThisProcess, database: Database) -> None:
        role = f"stranger_{os.getpid()}"
        database.connection.execute(f"CREATE ROLE {role} LOGIN")
        try:
            for command in WORKING:
                line = refused(call(*command, DATABASE_URL=f"{database.url} options='-c role={role}'"), 4)

                assert "permission denied" in line
        finally:
            database.connection.execute(f"DROP ROLE {role}")

    @pytest.mark.parametrize("command", [("sweep",), ("reprocess", "some-lead")], ids=" ".join)
    def test_because_it_takes_no_writes_ends_with_4(
        self, call: InThisProcess, database: Database, command: tuple[str, ...]
    ) -> None:
        url = make_conninfo(database.url, options="-c default_transaction_read_only=on")

        line = refused(call(*command, DATABASE_URL=url), 4)

        assert "takes no writes" in line
        assert "RESET default_transaction_read_only" in line


def test_a_newer_schema_is_worked_with_and_left_by_migrate(call: InThisProcess, database: Database) -> None:
    """As after going back to the release before."""
    database.run("UPDATE ops.cabinet_recovery_alembic_version SET version_num = '9999'")

    assert call("sweep", "--json", DATABASE_URL=database.url).returncode == 0
    done = call("migrate", DATABASE_URL=database.owner_url)

    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.returncode in (0, 3)


class TestAStandby:
    """Streams from the primary and takes no writes."""

    @pytest.fixture(scope="class")
    @classmethod
    def standby(cls, server: EmbeddedServer, remote: str) -> Iterator[EmbeddedServer]:  # noqa: ARG003 # it is copied too
        with standby_of(server) as standby:
            yield standby

    @pytest.mark.parametrize("command", WORKING, ids=" ".join)
    def test_is_refused_with_4(self, call: InThisProcess, standby: EmbeddedServer, command: tuple[str, ...]) -> None:
        line = refused(call(*command, DATABASE_URL=standby.url("fleet")), 4)

        assert "read-only standby" in line
        assert "target_session_attrs=read-write" in line

    def test_takes_no_migration(self, call: InThisProcess, standby: EmbeddedServer) -> None:
        assert "read-only" in refused(call("migrate", DATABASE_URL=standby.url("postgres")), 4)

    def test_among_several_hosts_is_passed_by(
        self, call: InThisProcess, server: EmbeddedServer, standby: EmbeddedServer, remote: str
    ) -> None:
        both = make_conninfo(
            remote,
            host=f"{conninfo_to_dict(standby.url())['host']},127.0.0.1",
            port=f"{standby.port},{server.port}",
        )

        for attributes in ("", "target_session_attrs=read-write", "target_session_attrs=primary"):
            assert call("sweep", "--json", DATABASE_URL=f"{both} {attributes}").returncode == 0
        line = refused(call("sweep", DATABASE_URL=f"{both} target_session_attrs=any"), 4)
        assert "read-only standby" in line

    @pytest.mark.parametrize("attributes", ["", "target_session_attrs=primary"])
    def test_of_which_all_hosts_are_is_named_as_such(
        self, call: InThisProcess, standby: EmbeddedServer, remote: str, attributes: str
    ) -> None:
        place = conninfo_to_dict(standby.url())
        both = make_conninfo(remote, host=f"{place['host']},{place['host']}", port=f"{standby.port}")

        assert "read-only standby" in refused(call("sweep", DATABASE_URL=f"{both} {attributes}"), 4)
