"""No statement of the handler or the survey scans a table that grows with all leads, whatever the statistics say."""

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from db import failures, queries
from db.survey import SET_UP_SURVEY, SURVEY
from tests.acceptance.test_backfill import load
from tests.database import TABLES, Database

GROWING = {table.partition(".")[2] for table in TABLES} - {"cabinet_recovery_settings"}
STATEMENTS = {
    name: getattr(module, name)
    for module, names in (
        (queries, ("ENQUEUE_DUE", "ENQUEUE_ASKED", "CLAIM", "RESOLVE")),
        (failures, ("COUNT_EVENTS", "RECORD_FAILURE", "SCHEDULE_RETRY")),
    )
    for name in names
}
PARAMETERS: dict[str, Any] = {
    "lead_ids": ["one", "another"],
    "lead_id": "one",
    "sqlstate": "23514",
    "message": "",
    "known_events": 1,
    "lock_timeout_ms": 100,
    "statement_timeout_ms": 10_000,
    "is_alone": False,
    "by_state": True,
    "starts_over": False,
    "max_attempts": 10,
}


def never_analysed(_database: Database) -> None:
    """As right after the migration."""


def analysed_while_empty(database: Database) -> None:
    database.run("ANALYZE")
    load(database, 5_000, analyse=False)


def analysed_in_the_middle_of_a_backlog(database: Database) -> None:
    load(database, 5_000, analyse=False)
    database.sweep(limit=1_000)
    database.run("VACUUM ANALYZE")


@pytest.mark.parametrize("prepare", [never_analysed, analysed_while_empty, analysed_in_the_middle_of_a_backlog])
@pytest.mark.parametrize("name", STATEMENTS)
def test_each_table_that_grows_is_looked_up_by_a_key(
    database: Database, name: str, prepare: Callable[[Database], None]
) -> None:
    prepare(database)

    scans = [node for node in nodes(plan(database, STATEMENTS[name])) if node.get("Relation Name") in GROWING]

    assert [node for node in scans if not is_by_key(node)] == []


@pytest.mark.parametrize("prepare", [never_analysed, analysed_while_empty, analysed_in_the_middle_of_a_backlog])
def test_the_survey_looks_at_no_lead_that_is_skipped(database: Database, prepare: Callable[[Database], None]) -> None:
    prepare(database)
    # A daemon plans it once: before the leads were skipped, or after.
    database.connection.execute(("PREPARE kept AS " + SURVEY).encode())
    survey_plan(database, "EXECUTE kept")
    database.run(
        "INSERT INTO ops.cabinet_recovery_exception (lead_id, outcome) "
        "SELECT 'skipped-' || n, 'origin_manual' FROM generate_series(1, 5000) AS n"
    )

    for statement in ("EXECUTE kept", SURVEY):
        found = nodes(survey_plan(database, statement))
        looks = [node for node in found if node.get("Relation Name") == "cabinet_recovery_exception"]

        assert {"ix_cabinet_recovery_exception_undone"} <= {node.get("Index Name") for node in looks}
        assert sum(node.get("Rows Removed by Filter", 0) * node["Actual Loops"] for node in looks) == 0


def survey_plan(database: Database, statement: str) -> dict[str, Any]:
    with database.connection.transaction():
        database.connection.execute(SET_UP_SURVEY, {"statement_timeout_ms": 10_000})
        (row,) = database.connection.execute(f"EXPLAIN (ANALYZE, FORMAT json) {statement}".encode()).fetchall()
    found: dict[str, Any] = next(iter(row.values()))[0]["Plan"]
    return found


def plan(database: Database, statement: str) -> dict[str, Any]:
    """The plan that the handler would get, in its own transaction and with its own settings."""
    with psycopg.ClientCursor(database.connection) as cursor, database.connection.transaction(force_rollback=True):
        for before in (queries.SET_UP_BATCH, queries.CLAIM):
            cursor.execute(before, PARAMETERS)
        cursor.execute("EXPLAIN (FORMAT json) " + statement, PARAMETERS)
        row = cursor.fetchone()
    assert row
    (explained,) = row.values()
    return dict(explained[0]["Plan"])


def nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for part in node.get("Plans", ()):
        yield from nodes(part)


def is_by_key(node: dict[str, Any]) -> bool:
    """Whether the node writes, or reads by an index with a condition on it."""
    if node["Node Type"] == "ModifyTable":
        return True
    if node["Node Type"] == "Bitmap Heap Scan":
        return all("Index Cond" in below for below in nodes(node) if below["Node Type"] == "Bitmap Index Scan")
    return "Index Cond" in node
