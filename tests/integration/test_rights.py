"""The service's role can do its work and nothing else."""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

import db
from db.engine import open_engine
from db.reports import read_status
from db.trigger_switch import read_states, switch
from tests.database import Database

GRANTS = Path(db.__file__).parent / "service_role.sql"
PASSWORD = "only for this test"


@pytest.fixture
def service(database: Database) -> Iterator[Database]:
    """The same database, as the service's role sees it."""
    role = (
        f"cabinet_recovery_test_{database.value('SELECT oid::int FROM pg_database WHERE datname = current_database()')}"
    )
    database.connection.execute(GRANTS.read_text(encoding="utf-8"))
    database.connection.execute(
        sql.SQL("CREATE ROLE {} LOGIN PASSWORD {} IN ROLE cabinet_recovery_service").format(
            sql.Identifier(role), PASSWORD
        )
    )
    found = Database(make_conninfo(database.url, user=role, password=PASSWORD))
    yield found
    found.close()
    database.connection.execute(sql.SQL("DROP OWNED BY {role}; DROP ROLE {role}").format(role=sql.Identifier(role)))


def test_it_recovers_in_every_way(database: Database, service: Database) -> None:
    person, other, third = database.person(), database.person(), database.person()
    database.origin(other, tag="migration")
    by_event = database.lead(matched_to=person)
    assert service.recover(by_event).recoveries[0].outcome == "recovered"
    by_sweep = database.lead(matched_to=other)
    assert service.sweep().as_job_result()["origins_updated"] == 1
    database.job(by_event, third)
    assert service.reprocess(by_event)[0].link == "move"
    assert service.reprocess(by_sweep)[0].outcome == "unchanged"


def test_it_records_what_failed(database: Database, service: Database) -> None:
    lead = database.lead(matched_to=database.person(), created_at=datetime(2026, 1, 1))
    database.run("ALTER TABLE canon.identity_origin ADD CONSTRAINT never CHECK (origin_confidence < 0) NOT VALID")

    assert service.recover(lead).recoveries[0].outcome == "failed"


def test_it_reports(database: Database, service: Database) -> None:
    database.lead(matched_to=database.person())
    with open_engine(service.settings().database, "test") as engine:
        assert read_status(engine).pending_leads == 1
        assert {one.state for one in read_states(engine)} == {"enabled"}


@pytest.mark.parametrize(
    "table",
    [
        "public.module_ct_cabinet_leads",
        "canon.identity_registry",
        "canon.identity_links",
        "canon.identity_origin",
        "canon.identity_origin_history",
        "ops.identity_matching_jobs",
        "ops.cabinet_lead_recovery_audit",
        "ops.cabinet_recovery_exception",
        "ops.cabinet_recovery_settings",
    ],
)
@pytest.mark.parametrize("statement", ["DELETE FROM {}", "TRUNCATE {}", "DROP TABLE {}"])
def test_it_can_destroy_nothing(service: Database, table: str, statement: str) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        service.connection.execute(statement.format(table))


@pytest.mark.parametrize(
    "statement",
    [
        "TRUNCATE ops.cabinet_recovery_outbox",
        "SELECT park_phone FROM public.module_ct_cabinet_leads",
        "SELECT primary_phone FROM canon.identity_registry",
        "UPDATE canon.identity_registry SET flags = NULL",
        "UPDATE ops.identity_matching_jobs SET status = 'pending'",
        "UPDATE canon.identity_links SET source_pk = 'x'",
        "UPDATE ops.cabinet_recovery_settings SET notify_mode = 'off'",
        "INSERT INTO canon.identity_registry (person_key, confidence_level) VALUES (gen_random_uuid(), 'HIGH')",
    ],
)
def test_it_can_do_nothing_else(service: Database, statement: str) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        service.connection.execute(statement)  # type: ignore[call-overload]


def test_it_cannot_switch_the_triggers(service: Database) -> None:
    with open_engine(service.settings().database, "test") as engine, pytest.raises(Exception, match="must be owner"):
        switch(engine, "DISABLE")
