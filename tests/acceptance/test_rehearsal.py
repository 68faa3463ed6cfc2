"""`--dry-run`: tells what would be written, writes nothing, and is right."""

import json
from datetime import datetime, timedelta
from typing import Any

from tests.database import Database, by_lead
from tests.processes import InThisProcess


def mixed(database: Database) -> None:
    """Leads of every outcome, with rivals for one person's origin."""
    rivals, manual, scouted = database.person(), database.person(), database.person()
    moved = database.lead("moved", matched_to=database.person())
    database.sweep()
    database.job(moved, database.person())
    database.origin(manual, tag="migration", decided_by="manual")
    database.origin(scouted, tag="scout_registration")
    for number, name in enumerate(("late-rival", "early-rival")):
        database.lead(name, matched_to=rivals, created_at=datetime.now() - timedelta(days=number))
    database.lead("manual", matched_to=manual)
    database.lead("scouted", matched_to=scouted)
    database.lead("unmatched")
    database.job("of-no-lead", database.person())
    database.run("DELETE FROM ops.cabinet_recovery_outbox WHERE lead_id = 'scouted'")


def planned(call: InThisProcess, database: Database, *arguments: str) -> list[dict[str, Any]]:
    done = call(*arguments, "--dry-run", "--json", DATABASE_URL=database.url)
    assert (done.returncode, done.stderr) == (0, "")
    return list(json.loads(done.stdout))


def test_what_a_sweep_is_said_to_do_is_what_it_then_does(call: InThisProcess, database: Database) -> None:
    mixed(database)
    before = database.row_versions()

    plan = planned(call, database, "sweep")

    assert database.row_versions() == before
    assert {one["lead_id"] for one in plan} == {
        *("moved", "late-rival", "early-rival", "manual", "scouted", "of-no-lead")
    }
    summary = database.sweep()
    outcomes = [one["outcome"] for one in plan]
    assert {outcome: outcomes.count(outcome) for outcome in outcomes} == dict(summary.outcomes)
    for what in ("link", "origin", "audit"):
        for action in ("create", "move", "update"):
            assert sum(one[what] == action for one in plan) == summary.writes[what, action], (what, action)
    assert planned(call, database, "sweep") == []


def test_what_a_reprocessing_is_said_to_do_is_what_it_then_does(call: InThisProcess, database: Database) -> None:
    mixed(database)
    names = ["scouted", "early-rival", "manual", "unmatched", "nobody", "moved"]
    before = database.row_versions()

    plan = planned(call, database, "reprocess", *names)

    assert database.row_versions() == before
    assert [one["lead_id"] for one in plan] == names
    done = by_lead(database.reprocess(*names))
    for one in plan:
        answer = done[one["lead_id"]]
        assert (answer.outcome, answer.link, answer.origin, answer.audit) == (
            *(one["outcome"], one["link"], one["origin"], one["audit"]),
        )


def test_people_are_told_that_nothing_was_written(call: InThisProcess, database: Database) -> None:
    mixed(database)

    done = call("sweep", "--dry-run", "--limit", "2", DATABASE_URL=database.url)

    assert done.returncode == 0
    assert "leads: 2; a dry run: nothing was written" in done.stderr
    assert "early-rival" in done.stdout
    assert database.audit_of("early-rival") is None
