"""Row level security on the host's tables: with the policies of docs/security.md it works; without, it is told of."""

import re

import pytest

from db.connect import AccessRefused
from tests.database import Database
from tests.integration.test_rights import SECURITY
from tests.logins import Login
from tests.processes import Daemon, run_command

READ = (
    "public.module_ct_cabinet_leads",
    "canon.identity_registry",
    "canon.identity_links",
    "canon.identity_origin",
    "ops.identity_matching_jobs",
)
WRITTEN = ("canon.identity_links", "canon.identity_origin", "canon.identity_origin_history")


def secure(database: Database, *tables: str) -> None:
    """So that nobody but a superuser sees a row, not even who owns the table."""
    for table in tables:
        database.connection.execute(
            f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY; ALTER TABLE {table} FORCE ROW LEVEL SECURITY"
        )


def add_policies(database: Database, login: Login) -> None:
    text = SECURITY.read_text(encoding="utf-8")
    (policies,) = re.findall(r"```sql\n(CREATE POLICY.*?)```", text, re.DOTALL)
    for role, name in vars(login.roles).items():
        policies = policies.replace(f"cabinet_recovery_{role}", name)
    database.connection.execute(policies)


@pytest.mark.parametrize("table", READ)
def test_a_table_whose_rows_are_all_hidden_is_told_of_and_nothing_is_recorded(
    database: Database, login: Login, table: str
) -> None:
    lead = database.lead(matched_to=database.person())
    secure(database, table)

    with pytest.raises(AccessRefused, match=f"row level security on {table} hides every row from role "):
        database.recover(lead)

    assert database.exception_of(lead) is None
    assert database.events() == [(lead, "matching_job")]


def test_every_way_of_working_says_so(database: Database) -> None:
    secure(database, "canon.identity_registry")
    with Daemon(database.url) as daemon:
        done = run_command("sweep", url=database.url)

        assert done.returncode == daemon.end() == 4
    assert done.stderr.count("\n") == 1 and "docs/security.md" in done.stderr
    assert daemon.plain_lines == [done.stderr.rstrip()]


def test_with_the_policies_of_the_document_all_is_recovered(database: Database, login: Login) -> None:
    secure(database, *READ, *WRITTEN)
    add_policies(database, login)
    person, other = database.person(), database.person()
    database.origin(other, tag="migration")

    lead = database.lead(matched_to=person)
    assert database.recover(lead).recoveries[0].outcome == "recovered"
    database.job(lead, other)
    assert database.reprocess(lead)[0].link == "move"
    unmatched = database.lead()
    assert database.reprocess(unmatched)[0].outcome == "no_person_key"
    database.job(unmatched, person)
    database.run("DELETE FROM ops.cabinet_recovery_outbox")
    assert database.sweep().outcomes["recovered"] == 1


def test_a_policy_that_lets_us_read_but_not_write_is_an_error_of_the_database(database: Database, login: Login) -> None:
    lead = database.lead(matched_to=database.person())
    secure(database, "canon.identity_links")
    database.connection.execute(
        f"CREATE POLICY look ON canon.identity_links FOR SELECT TO {login.roles.owner} USING (true)"
    )

    done = run_command("sweep", url=database.url)

    assert done.returncode == 4
    assert "violates row-level security policy" in done.stderr
    assert database.events() == [(lead, "matching_job")]
