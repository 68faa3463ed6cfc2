"""The survey's figures mean exactly what they say, cost next to nothing, and need no more than the service's rights."""

import time
from datetime import datetime, timedelta
from typing import Any

import psycopg
import pytest

from db.survey import SET_UP_SURVEY, SURVEY
from db.trigger_switch import TRIGGERS
from tests.database import Database
from tests.days import today
from tests.integration.test_plans import nodes
from tests.integration.test_rights import service  # noqa: F401 # a fixture

QUEUE = {"cabinet_recovery_outbox", "cabinet_recovery_exception", "module_ct_cabinet_leads", "identity_links"}


def days_before(days: int) -> datetime:
    return today() - timedelta(days=days)


def survey(database: Database) -> dict[str, Any]:
    with database.connection.transaction():
        database.connection.execute(SET_UP_SURVEY, {"statement_timeout_ms": 60_000})
        row = database.connection.execute(SURVEY, prepare=True).fetchone()
    assert row
    return row


def failed(database: Database, lead_id: str, outcome: str = "failed", **columns: str) -> None:
    """What the handler has recorded of a lead; the columns as SQL expressions."""
    names = "".join(f", {name}" for name in columns)
    values = "".join(f", {value}" for value in columns.values())
    database.connection.execute(
        f"INSERT INTO ops.cabinet_recovery_exception (lead_id, outcome, failed_events{names}) "
        f"VALUES (%s, %s, 1{values})",
        (lead_id, outcome),
    )


def test_where_nothing_is_pending_all_is_zero_but_the_triggers(database: Database) -> None:
    figures = survey(database)

    assert figures.pop("triggers_enabled") == 1
    assert set(figures.values()) == {0}


def test_pending_are_leads_that_are_due_and_the_oldest_is_theirs(database: Database) -> None:
    database.job(twice := database.lead(matched_to=database.person()), database.person())
    given_up, resting = (database.lead(matched_to=database.person()) for _ in range(2))
    failed(database, given_up, parked_at="now()")
    failed(database, resting, next_attempt_at="now() + interval '1 hour'")
    database.run("UPDATE ops.cabinet_recovery_outbox SET requested_at = now() - interval '1 day'")
    database.run(
        "UPDATE ops.cabinet_recovery_outbox SET requested_at = now() - interval '1 hour' WHERE lead_id = %s", twice
    )

    figures = survey(database)

    assert figures["pending_leads"] == 1
    assert 3600 <= figures["oldest_pending_seconds"] < 3700
    assert figures["parked_leads"] == 1


def test_parked_are_those_that_consumer_parked_lists(database: Database) -> None:
    failed(database, "given up", parked_at="now()")
    failed(database, "mended", parked_at="now()", resolved_at="now()")
    failed(database, "resting")

    assert survey(database)["parked_leads"] == 1


@pytest.mark.parametrize(
    ("days_ago", "closing"),
    # A window ends at the midnight that begins the fourteenth day after the lead's.
    [(0, 0), (11, 0), (12, 1), (13, 1), (14, 0), (300, 0)],
)
def test_a_matched_lead_s_window_counts_in_its_last_two_days(database: Database, days_ago: int, closing: int) -> None:
    lead = database.lead(matched_to=database.person(), created_at=days_before(days_ago))

    assert survey(database)["windows_closing_leads"] == closing
    failed(database, lead, parked_at="now()")
    assert survey(database)["windows_closing_leads"] == closing


def test_a_window_counts_once_while_its_lead_waits_for_us_and_not_once_it_is_nobody_s_or_decided(
    database: Database,
) -> None:
    for outcome in ("unknown_person", "failed", "no_person_key", "origin_manual", "origin_held"):
        lead = database.lead(created_at=days_before(12))
        failed(database, lead, outcome)
    both = database.lead(created_at=days_before(12), matched_to=database.person())
    failed(database, both)
    recovered = database.lead(created_at=days_before(12), matched_to=database.person())
    assert database.recover(recovered).recoveries[0].outcome == "recovered"
    database.lead(created_at=days_before(12))  # the engine has not found its person
    database.lead(created_at=None, matched_to=database.person())

    assert survey(database)["windows_closing_leads"] == 3


def test_each_trigger_that_is_off_or_missing_counts(database: Database) -> None:
    for table, names in TRIGGERS.items():
        for name in names:
            for action in (f"DISABLE TRIGGER {name}", f"ENABLE REPLICA TRIGGER {name}"):
                database.connection.execute(f"ALTER TABLE {table} {action}")
                assert survey(database)["triggers_enabled"] == 0
            database.connection.execute(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {name}")
            assert survey(database)["triggers_enabled"] == 1
    database.connection.execute(f"DROP TRIGGER {name} ON {table}")
    assert survey(database)["triggers_enabled"] == 0


def test_the_service_s_rights_are_enough(service: Database) -> None:  # noqa: F811 # the fixture
    assert survey(service)["triggers_enabled"] == 1


def test_it_writes_nothing(database: Database) -> None:
    insert = "INSERT INTO ops.cabinet_recovery_outbox (lead_id, source) VALUES ('x', 'operator')"
    with database.connection.transaction():
        database.connection.execute(SET_UP_SURVEY, {"statement_timeout_ms": 1000})
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction), database.connection.transaction():
            database.connection.execute(insert)


def test_no_table_that_grows_is_scanned(database: Database) -> None:
    with database.connection.transaction(force_rollback=True):
        database.connection.execute(SET_UP_SURVEY, {"statement_timeout_ms": 1000})
        (row,) = database.connection.execute("EXPLAIN (FORMAT json) " + SURVEY).fetchall()
    (explained,) = row.values()
    read = [node for node in nodes(explained[0]["Plan"]) if node.get("Relation Name") in QUEUE]

    assert {"cabinet_recovery_outbox", "module_ct_cabinet_leads"} <= {node["Relation Name"] for node in read}
    assert [node for node in read if node["Node Type"] == "Seq Scan"] == []
    assert "identity_links" not in {node["Relation Name"] for node in read}


@pytest.mark.scale
@pytest.mark.parametrize("analysed", ["before", "after"])
def test_a_backlog_of_a_million_costs_nothing(database: Database, analysed: str) -> None:
    if analysed == "before":
        database.run("ANALYZE")
    database.run("ALTER TABLE ops.identity_matching_jobs DISABLE TRIGGER USER")
    database.run(
        "INSERT INTO public.module_ct_cabinet_leads (external_id, lead_created_at) "
        "SELECT 'ext-' || n, now() - n %% 45 * interval '1 day' FROM generate_series(1, 1000000) AS n"
    )
    idle = milliseconds(database)
    database.run(
        "INSERT INTO ops.cabinet_recovery_exception (lead_id, outcome) "
        "SELECT 'ext-' || n, 'origin_manual' FROM generate_series(1, 100000) AS n"
    )
    excepted = milliseconds(database)
    database.run(
        "INSERT INTO ops.cabinet_recovery_outbox (lead_id, source) "
        "SELECT external_id, 'matching_job' FROM public.module_ct_cabinet_leads"
    )
    if analysed == "after":
        database.run("VACUUM ANALYZE")
    backlog = milliseconds(database)

    print(f"survey, analysed {analysed}: idle {idle:.1f} ms, 100,000 skipped {excepted:.1f} ms, "
          f"a million pending {backlog:.1f} ms")  # fmt: skip
    assert idle < 5
    assert excepted < 5
    assert backlog - excepted < 50


def milliseconds(database: Database) -> float:
    taken = []
    for _ in range(5):
        started = time.perf_counter()
        survey(database)
        taken.append(1e3 * (time.perf_counter() - started))
    return sorted(taken)[2]
