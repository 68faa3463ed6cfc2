"""`consumer why`: a lead's story, what is missing and who can mend it."""

import json

import pytest

from tests.database import Database
from tests.processes import InThisProcess, refused


def verdict(call: InThisProcess, database: Database, lead: str) -> str:
    done = call("why", lead, DATABASE_URL=database.url)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip().splitlines()[-1]


def test_the_story_is_told_in_order(call: InThisProcess, database: Database) -> None:
    person, before = database.person(), database.person()
    database.origin(person, tag="scout_registration", source="scout-7")
    lead = database.lead(matched_to=before)
    database.sweep()
    database.job(lead, person)
    database.sweep()
    database.job(lead, before)
    database.job(lead, person)
    database.run("UPDATE ops.identity_matching_jobs SET attempt_count = 1")

    done = call("why", lead, DATABASE_URL=database.url)

    chapters = [line.split("  ")[0].strip() for line in done.stdout.splitlines()[1:] if line]
    assert chapters[:-1] == [
        *("lead", "window", "match", "link", "origin was", "origin", "event", "event", "recovered", "again", "bucket")
    ]
    assert "scout_registration of scout-7" in done.stdout
    assert "attempts: 1" in done.stdout
    assert str(before) in done.stdout
    assert "recovered_late" in done.stdout


@pytest.mark.parametrize("forms", ["text", "json"])
def test_nothing_personal_is_told(call: InThisProcess, database: Database, forms: str) -> None:
    person = database.person()
    lead = database.lead(matched_to=person)
    database.run(
        "UPDATE public.module_ct_cabinet_leads SET first_name = 'Personal1', last_name = 'Personal2', "
        "park_phone = 'Personal3', asset_plate_number = 'Personal4'"
    )
    database.run("UPDATE canon.identity_registry SET primary_phone = 'Personal5', primary_full_name = 'Personal6'")
    database.origin(person, tag="migration")
    database.run("UPDATE canon.identity_origin SET notes = 'Personal7', evidence = '{\"phone\": \"Personal8\"}'")
    database.run("UPDATE canon.identity_origin_history SET changed_by = 'Personal9', change_reason = 'Personal10'")
    database.run(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
        "$$BEGIN RAISE EXCEPTION 'the phone Personal11 is wrong'; END$$"
    )
    database.run("CREATE TRIGGER refuse BEFORE INSERT ON canon.identity_links FOR EACH ROW EXECUTE FUNCTION refuse()")
    database.sweep()
    database.run("UPDATE ops.identity_matching_jobs SET fail_reason = 'Personal12'")

    done = call("why", lead, *(["--json"] if forms == "json" else []), DATABASE_URL=database.url)

    assert done.returncode == 0
    assert "P0001" in done.stdout
    assert "Personal" not in done.stdout + done.stderr


def test_one_sentence_says_what_is_missing_and_who_can_mend_it(call: InThisProcess, database: Database) -> None:
    held, by_hand = database.person(), database.person()
    database.origin(by_hand, tag="migration", decided_by="manual")
    database.run("ALTER TABLE canon.identity_origin ADD CHECK (origin_source_id <> 'bad')")
    leads = {
        "unmatched": database.lead("unmatched"),
        "holder": database.lead("holder", matched_to=held),
        "by-hand": database.lead("by-hand", matched_to=by_hand),
        "bad": database.lead("bad", matched_to=database.person()),
    }
    database.sweep()
    database.lead("held", matched_to=held)
    database.sweep()
    database.lead("to-do", matched_to=database.person())

    assert "the matching engine has to find its person" in verdict(call, database, leads["unmatched"])
    assert verdict(call, database, "holder").startswith("Link and origin stand")
    assert "decided the origin by hand has to change it" in verdict(call, database, "by-hand")
    assert "belongs to lead holder" in verdict(call, database, "held")
    assert "SQLSTATE 23514" in verdict(call, database, "bad")
    assert "`consumer sweep`" in verdict(call, database, "to-do")
    database.run("UPDATE ops.cabinet_recovery_exception SET parked_at = now() WHERE lead_id = 'bad'")
    assert "consumer parked retry" in verdict(call, database, "bad")


def test_a_person_who_is_in_no_registry_is_for_its_keeper_to_add(call: InThisProcess, database: Database) -> None:
    database.without_foreign_keys()
    person = database.person()
    lead = database.lead(matched_to=person)
    database.run("DELETE FROM canon.identity_registry")

    assert "canon.identity_registry has to add the person" in verdict(call, database, lead)


def test_a_lead_that_there_is_not_ends_with_5(call: InThisProcess, database: Database) -> None:
    assert "no lead with this lead_id" in refused(call("why", "nobody\x1b[2J", DATABASE_URL=database.url), 5)
    database.job("early", database.person())
    line = refused(call("why", "early", "--json", DATABASE_URL=database.url), 5)
    assert "a match that names it" in line
    refused(call("why", "", DATABASE_URL=database.url), 2)


def test_machines_are_told_the_same(call: InThisProcess, database: Database) -> None:
    lead = database.lead(matched_to=(person := database.person()))
    database.sweep()

    story = json.loads(call("why", lead, "--json", DATABASE_URL=database.url).stdout)

    assert story["link"]["person_key"] == story["audit"]["recovered_person_key"] == str(person)
    assert story["impact"]["impact_bucket"] == "recovered_late"
    assert story["verdict"].startswith("Link and origin stand")
