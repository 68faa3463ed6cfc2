"""`consumer doctor`: each thing that goes wrong is found, and nothing else."""

import json
import shutil
import subprocess
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from consumer.doctor import examine
from consumer.doctor.checks import CHECKS
from consumer.doctor.examination import Finding, needed_rights
from consumer.settings import Settings
from db.checks import MISSING_RIGHTS, RIGHTS
from db.connect import SCHEMA_REVISION
from db.migrate import migrate
from tests.database import Database
from tests.host import OLD_VIEWS
from tests.logins import Login
from tests.processes import ELSEWHERE, InThisProcess, environment, own_server, refused
from tests.servers import TemplateDatabase


def found(database: Database, url: str | None = None, **variables: str) -> dict[str, Finding]:
    settings = Settings.from_environment({"DATABASE_URL": url or database.url, **variables})
    return {one.check: one for one in examine(settings)}


def state(database: Database, check: str, url: str | None = None, **variables: str) -> tuple[str, str]:
    """What a check came to, and that whatever is not ok has something that mends it."""
    one = found(database, url, **variables)[check]
    assert bool(one.mend) == (one.state in {"warn", "fail"})
    return one.state, one.text


def run_as_owner(database: Database, mend: str) -> None:
    """Run what follows "as the owner …:" in a shell, elsewhere than in the checkout."""
    if shutil.which("psql") is None:
        pytest.skip("psql is not installed")
    command = mend.partition(": ")[2]
    assert command.startswith("psql ")
    variables = environment(database.owner_url)
    subprocess.run(command, shell=True, check=True, capture_output=True, cwd=ELSEWHERE, env=variables)


@pytest.fixture
def healthy(database: Database) -> Database:
    """Two recovered leads, so that there are persons to try with."""
    for _ in range(2):
        database.lead(matched_to=database.person())
    database.sweep()
    return database


def test_where_all_is_well_every_check_is_ok_and_nothing_is_left_behind(
    call: InThisProcess,
    healthy: Database,
) -> None:
    before = healthy.row_versions()

    with healthy.connection.transaction():  # nothing waits for the engine's locks, nor the engine for ours
        healthy.connection.execute("LOCK TABLE canon.identity_links IN ROW EXCLUSIVE MODE")
        done = call("doctor", "--json", DATABASE_URL=healthy.url)

    assert done.returncode == 0
    findings = json.loads(done.stdout)
    assert [one["check"] for one in findings] == list(CHECKS)
    assert [one for one in findings if one["state"] != "ok"] == []
    assert healthy.row_versions() == before
    assert healthy.events() == []


def test_as_the_service_s_role_it_tries_what_that_may(healthy: Database) -> None:
    assert "the owner may" in found(healthy)["events"].text
    assert "the owner may" not in found(healthy, healthy.owner_url)["events"].text


def test_each_right_that_is_missing_is_named(healthy: Database, login: Login) -> None:
    service = sql.Identifier(login.roles.service).as_string()
    for relation, privileges in RIGHTS.items():
        for privilege in privileges:
            with healthy.connection.transaction(force_rollback=True):
                healthy.connection.execute(f"REVOKE {privilege} ON {relation} FROM {service}")
                healthy.connection.execute(f"SET LOCAL ROLE {service}")
                (missing,) = healthy.connection.execute(MISSING_RIGHTS, {"rights": needed_rights()}).fetchall()
            assert missing["missing"].startswith(f"{privilege} on {relation}")
    healthy.connection.execute(f"REVOKE UPDATE ON canon.identity_origin FROM {service}")
    is_state, text = state(healthy, "rights")
    assert is_state == "fail"
    assert "UPDATE on canon.identity_origin (" in text


def test_a_database_that_is_away_fails_and_the_rest_is_skipped(call: InThisProcess) -> None:
    done = call("doctor", "--json", DATABASE_URL="postgresql://fleet:Geheim77@127.0.0.1:1/fleet")

    findings = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (5, "")
    assert [one["state"] for one in findings] == ["fail"] + ["skipped"] * (len(CHECKS) - 1)
    assert "refused" in findings[0]["text"]
    assert "Geheim77" not in done.stdout
    refused(call("doctor"), 2)


def test_a_database_that_takes_no_writes_fails(database: Database) -> None:
    url = make_conninfo(database.url, options="-c default_transaction_read_only=on")

    is_state, text = state(database, "connection", url)

    assert (is_state, "takes no writes" in text) == ("fail", True)


def test_people_are_shown_what_mends_it(call: InThisProcess, healthy: Database) -> None:
    healthy.run("ALTER TABLE canon.identity_links DISABLE TRIGGER cabinet_recovery_link_updated")

    done = call("doctor", DATABASE_URL=healthy.url)

    assert done.returncode == 5
    (line,) = [one for one in done.stdout.splitlines() if one.startswith("triggers ")]
    assert "fail" in line
    assert "  triggers: consumer triggers enable" in done.stdout.splitlines()
    assert "\x1b" not in done.stdout


def test_what_mends_it_can_be_copied_from_a_narrow_terminal(call: InThisProcess, healthy: Database) -> None:
    healthy.run("DROP TRIGGER cabinet_recovery_link_inserted ON canon.identity_links")
    mend = found(healthy)["triggers"].mend

    done = call("doctor", DATABASE_URL=healthy.url, FORCE_COLOR="1", COLUMNS="80")

    assert len(mend) > 80
    assert f"  triggers: {mend}" in done.stdout.splitlines()


class TestSchema:
    def test_that_is_missing_fails_and_what_needs_it_is_skipped(self, server_url: str) -> None:
        with TemplateDatabase(server_url, prepare=lambda _: None) as empty:
            url = empty.fresh()
            findings = {one.check: one for one in examine(Settings.from_environment({"DATABASE_URL": url}))}
            empty.drop(url)

        assert (findings["schema"].state, findings["schema"].mend) == ("fail", "consumer migrate")
        assert {findings[one].state for one in ("triggers", "views")} == {"skipped"}
        assert findings["notify"].state == "ok"

    def test_that_is_outdated_fails(self, database: Database) -> None:
        database.run("UPDATE ops.cabinet_recovery_alembic_version SET version_num = '0004'")

        assert state(database, "schema") == ("fail", f"0004 is outdated, {SCHEMA_REVISION} is needed")


class TestWhatMends:
    """The commands, as they stand, from any folder."""

    @pytest.mark.parametrize(
        ("check", "loss"),
        [
            ("triggers", "DROP TRIGGER cabinet_recovery_job_updated ON ops.identity_matching_jobs"),
            (
                "triggers",
                """
                DROP TRIGGER cabinet_recovery_link_inserted ON canon.identity_links;
                DROP TRIGGER cabinet_recovery_job_updated ON ops.identity_matching_jobs;
                """,
            ),
            ("views", "DROP VIEW ops.v_cabinet_lead_identity_effective"),
            # With all that read them.
            ("views", "DROP VIEW ops.v_cabinet_recovery_identity, ops.v_cabinet_recovery_origin CASCADE"),
            ("time zone", "DELETE FROM ops.cabinet_recovery_settings"),
        ],
        ids=["a trigger", "triggers", "a view", "views", "the settings"],
    )
    def test_what_is_missing_is_made_anew_at_once(self, healthy: Database, check: str, loss: str) -> None:
        healthy.connection.execute(loss)

        run_as_owner(healthy, found(healthy)[check].mend)

        assert state(healthy, check)[0] == "ok"

    def test_views_that_the_host_made_its_own_again(self, healthy: Database) -> None:
        """Its migrations run their own CREATE OR REPLACE; who reads the figures would not know."""
        healthy.run(OLD_VIEWS.replace("CREATE VIEW", "CREATE OR REPLACE VIEW"))

        theirs = "v_cabinet_identity_recovery_impact_14d, v_cabinet_lead_identity_effective"
        assert state(healthy, "views") == ("warn", f"not as we made it, so its figures go by other rules: {theirs}")
        run_as_owner(healthy, found(healthy)["views"].mend)
        assert state(healthy, "views")[0] == "ok"


class TestTriggers:
    def test_that_are_missing_fail_and_their_events_too(self, healthy: Database) -> None:
        healthy.run("DROP TRIGGER cabinet_recovery_job_updated ON ops.identity_matching_jobs")

        assert state(healthy, "triggers") == ("fail", "missing: cabinet_recovery_job_updated")
        assert state(healthy, "events", healthy.owner_url) == ("fail", "a match makes no event: job_updated")

    def test_that_fire_for_replication_alone_fail(self, healthy: Database) -> None:
        healthy.run("ALTER TABLE canon.identity_links ENABLE REPLICA TRIGGER cabinet_recovery_link_inserted")

        assert state(healthy, "triggers") == ("fail", "do not fire: cabinet_recovery_link_inserted")

    def test_that_are_there_but_do_nothing_fail(self, healthy: Database) -> None:
        healthy.run(
            "CREATE OR REPLACE FUNCTION ops.cabinet_recovery_link_inserted() RETURNS trigger LANGUAGE plpgsql "
            "AS 'BEGIN RETURN NULL; END'"
        )

        assert state(healthy, "triggers")[0] == "ok"
        assert state(healthy, "events") == ("fail", "a match makes no event: link_inserted")

    def test_on_a_table_that_is_locked_are_not_waited_for(self, healthy: Database) -> None:
        with psycopg.connect(healthy.owner_url) as holder:
            holder.execute("LOCK TABLE canon.identity_links IN SHARE ROW EXCLUSIVE MODE")

            is_state, text = state(healthy, "events")

        assert (is_state, text) == ("warn", "not known: a table is locked by somebody")

    def test_are_not_tried_where_nobody_was_matched(self, database: Database) -> None:
        assert "not tried" in state(database, "events")[1]


class TestNotify:
    def test_that_does_not_arrive_fails(self, database: Database) -> None:
        """As behind a transaction pooler: here the listener is in another database."""
        elsewhere = make_conninfo(database.url, dbname="postgres")
        variables = {
            "CABINET_RECOVERY_LISTENER_DATABASE_URL": elsewhere,
            "CABINET_RECOVERY_PROOF_TIMEOUT_SECONDS": "1",
        }

        is_state, text = state(database, "notify", **variables)

        assert is_state == "fail"
        assert "does not arrive" in text

    def test_to_a_listener_s_address_where_nobody_is_fails(self, database: Database) -> None:
        variables = {"CABINET_RECOVERY_LISTENER_DATABASE_URL": "host=127.0.0.1 port=1 dbname=fleet"}

        assert state(database, "notify", **variables)[0] == "fail"

    @pytest.mark.slow
    def test_whose_queue_fills_warns_and_then_fails(self) -> None:
        with (
            own_server(max_notify_queue_pages="64") as server,
            psycopg.connect(server.url(), autocommit=True) as sender,
        ):
            address = server.url()
            settings = Settings.from_environment({"DATABASE_URL": address})
            migrate(settings.database)
            with psycopg.connect(address) as sleeper:
                sleeper.execute("LISTEN anything")
                sleeper.commit()
                sleeper.execute("SELECT 1")
                states = []
                for number in range(50):
                    sender.execute("SELECT pg_notify('anything', %s)", [f"{number}" + "x" * 7900])
                    states += [one.state for one in examine(settings) if one.check == "notify queue"][:1]
                    if states[-1] == "fail":
                        break

        assert sorted(set(states)) == ["fail", "ok", "warn"]


class TestViews:
    def test_that_are_missing_fail(self, database: Database) -> None:
        database.run("DROP VIEW ops.v_cabinet_lead_identity_effective")

        assert state(database, "views") == ("fail", "v_cabinet_lead_identity_effective is missing")

    def test_with_other_columns_fail(self, database: Database) -> None:
        database.run("DROP VIEW ops.v_cabinet_lead_identity_effective")
        database.run("CREATE VIEW ops.v_cabinet_lead_identity_effective AS SELECT 1 AS lead_id")

        assert state(database, "views") == ("fail", "v_cabinet_lead_identity_effective has other columns")


class TestLeads:
    def test_that_could_be_recovered_warn(self, database: Database) -> None:
        database.lead(matched_to=database.person())
        assert state(database, "due")[0] == "ok", "its event is young: the daemon is about to"
        database.run("UPDATE ops.cabinet_recovery_outbox SET requested_at = now() - interval '1 h'")
        assert state(database, "due") == (
            "warn",
            "recoverable now: 1 with an event older than 120 s, 0 without an event",
        )
        database.run("DELETE FROM ops.cabinet_recovery_outbox")
        assert state(database, "due") == (
            "warn",
            "recoverable now: 0 with an event older than 120 s, 1 without an event",
        )

    def test_that_are_parked_failed_or_waiting_warn(self, database: Database) -> None:
        database.run("ALTER TABLE canon.identity_origin ADD CHECK (origin_source_id <> 'bad')")
        database.lead("bad", matched_to=database.person())
        database.job("of-no-lead", database.person())
        database.sweep()

        told = "0 parked, 1 failed, 1 wait for their lead or person"
        assert state(database, "undone") == ("warn", told)
        database.run("UPDATE ops.cabinet_recovery_exception SET parked_at = now() WHERE lead_id = 'bad'")
        assert found(database)["undone"].mend == "consumer parked list"

    def test_that_are_gone_leave_origins_that_warn(self, healthy: Database) -> None:
        healthy.run("DELETE FROM public.module_ct_cabinet_leads WHERE id = 1")

        assert state(healthy, "stale origins") == ("warn", "origins of leads that are gone: 1, such as that of ext-1")

    def test_whose_job_names_another_than_the_link_warn(self, healthy: Database) -> None:
        healthy.link("ext-1", healthy.person())

        assert state(healthy, "disagreements")[0] == "warn"
        assert "consumer why ext-1" in found(healthy)["disagreements"].mend


@pytest.mark.parametrize(
    ("change", "age", "expected"),
    [
        ("recovered_by = 'somebody'", "1 h", "warn"),
        ("recovery_method = 'manual'", "1 h", "warn"),
        ("recovery_method = NULL", "1 h", "warn"),
        ("recovery_method = NULL", "30 days", "ok"),
    ],
)
def test_an_audit_that_somebody_else_writes_warns(healthy: Database, change: str, age: str, expected: str) -> None:
    healthy.connection.execute(
        sql.SQL("UPDATE ops.cabinet_lead_recovery_audit SET {}, updated_at = now() - {}::interval").format(
            sql.SQL(change),
            age,  # type: ignore[arg-type] # it is the test's own
        )
    )

    is_state, text = state(healthy, "audit")

    assert is_state == expected
    assert text.startswith("rows that are not ours: 2,")


@pytest.mark.parametrize(("seconds", "words"), [(90, "ahead of"), (-90, "behind")])
def test_clocks_that_differ_warn(database: Database, seconds: int, words: str) -> None:
    settings = database.settings()
    findings = {one.check: one for one in examine(settings, lambda: datetime.now(UTC) + timedelta(seconds=seconds))}

    assert findings["clock"].state == "warn"
    assert words in findings["clock"].text


def test_the_business_s_time_zone_is_told_and_warns_where_none_is_set(database: Database) -> None:
    database.run("UPDATE ops.cabinet_recovery_settings SET business_time_zone = 'America/Lima'")
    assert state(database, "time zone")[1].startswith("America/Lima, where today is 2")
    database.run("UPDATE ops.cabinet_recovery_settings SET notify_mode = 'off'")
    assert state(database, "time zone")[0] == "warn"
    database.run("DELETE FROM ops.cabinet_recovery_settings")
    assert state(database, "time zone") == ("warn", "there are no settings: days are counted in UTC")
