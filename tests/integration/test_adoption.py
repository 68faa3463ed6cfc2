"""The service comes into a database of the host's, is renewed there, and goes again."""

import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import psycopg
import pytest
import structlog
from alembic import command
from alembic.config import Config

from db.connect import Address
from db.embedded import runnable_binaries
from db.host import HostDoesNotFit, require_fitting_host
from db.migrate import migrate
from db.roles import Roles
from db.uninstall import uninstall
from migrations import execution
from tests.database import Database
from tests.host import EFFECTIVE, HOST, IMPACT, OLD_VIEWS, dump, is_ours, run
from tests.processes import ELSEWHERE, Daemon, InThisProcess, environment, eventually
from tests.servers import TemplateDatabase

PROJECT_FILE = Path(__file__).parents[2] / "pyproject.toml"


@pytest.fixture(scope="module")
def hosts(server_url: str) -> Iterator[TemplateDatabase]:
    """The host's database with its own two views; every copy has the same rows, to the microsecond."""
    with TemplateDatabase(server_url, prepare=lambda url: run(url, HOST + OLD_VIEWS)) as template:
        yield template


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[InThisProcess]:
    yield InThisProcess(monkeypatch, capfd)
    structlog.reset_defaults()  # it logs to this test's stderr, which is gone


@pytest.fixture
def url(hosts: TemplateDatabase) -> Iterator[str]:
    conninfo = hosts.fresh()
    yield conninfo
    hosts.drop(conninfo)


def psql(url: str, script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [runnable_binaries() / "psql", "-X", "-q", url], check=False, input=script, capture_output=True, text=True
    )


def upgrade(url: str, revision: str) -> None:
    command.upgrade(Config(toml_file=PROJECT_FILE, attributes={"url": url}), revision)


def unlike(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {entry for entry in before | after if before.get(entry) != after.get(entry)}


def planned(call: InThisProcess, url: str) -> dict[str, set[str]]:
    """What `consumer migrate --plan` says: kind and name of each object, by action."""
    done = call("migrate", "--plan", DATABASE_URL=url)
    assert (done.returncode, done.stderr) == (0, "")
    rows = [line.split()[:3] for line in done.stdout.splitlines()[1:]]
    assert len(rows) == len({tuple(row) for row in rows})
    return {action: {f"{kind} {name}" for a, kind, name in rows if a == action} for action, _, _ in rows}


def stands(found: dict[str, str]) -> set[str]:
    """The objects of a dump, in the words of a plan."""
    pattern = re.compile(r"(TABLE|VIEW|FUNCTION|TRIGGER|INDEX) (?!DATA)(\S+) (.+)")
    named = [match.groups() for entry in found if (match := pattern.fullmatch(entry))]
    return {
        f"{kind.lower()} {name.split()[-1]}" if kind in {"TRIGGER", "INDEX"} else f"{kind.lower()} {schema}.{name}"
        for kind, schema, name in ((kind, schema, re.sub(r"\(.*", "", name)) for kind, schema, name in named)
    }


class TestThePlan:
    def test_names_what_is_then_created_and_replaced_and_changes_nothing(self, call: InThisProcess, url: str) -> None:
        before = dump(url)

        plan = planned(call, url)

        assert dump(url) == before
        migrate(Address.parse(url))
        after = dump(url)
        assert plan["create"] == stands(after) - stands(before)
        assert plan["replace"] == {"view ops." + view.split()[-1] for view in (EFFECTIVE, IMPACT)}
        assert {one for one in plan["leave"] if one.startswith("table")} == {
            one for one in stands(before) if one.startswith("table") and "payments" not in one and "alembic" not in one
        }

    def test_of_an_upgrade_names_what_is_replaced_created_and_dropped(self, call: InThisProcess, url: str) -> None:
        upgrade(url, "0005")
        before = dump(url)

        plan = planned(call, url)

        migrate(Address.parse(url))
        after = dump(url)
        assert plan["create"] == stands(after) - stands(before)
        assert plan["drop"] == stands(before) - stands(after)
        changed = {entry for entry in unlike(before, after) if not entry.startswith(("TABLE DATA", "ACL"))}
        assert stands(dict.fromkeys(changed, "")) <= set.union(*plan.values()) - plan["leave"]
        assert plan["alter"] == {"table ops.cabinet_recovery_outbox", "table ops.cabinet_recovery_settings"}
        assert "view ops.v_cabinet_recovery_decision" in plan["replace"]

    def test_is_empty_where_nothing_is_due(self, call: InThisProcess, url: str) -> None:
        migrate(Address.parse(url))

        for option in ("--plan", "--sql"):
            done = call("migrate", option, DATABASE_URL=url)
            assert (done.returncode, done.stdout) == (0, "")
            assert done.stderr == "nothing is due: the schema is up to date\n"


class TestTheScript:
    @pytest.mark.parametrize("start", [None, "0002", "0005"])
    def test_ends_where_migrate_ends(
        self, call: InThisProcess, url: str, hosts: TemplateDatabase, start: str | None
    ) -> None:
        by_command = hosts.fresh()
        for one in (url, by_command):
            if start:
                upgrade(one, start)
        before = dump(url)
        written = call("migrate", "--sql", DATABASE_URL=url)
        assert (written.returncode, written.stderr) == (0, "")
        assert dump(url) == before

        done = psql(url, written.stdout)
        migrate(Address.parse(by_command))

        assert done.returncode == 0, done.stderr
        assert "ERROR" not in done.stderr
        assert dump(url) == dump(by_command)
        hosts.drop(by_command)

    def test_builds_an_index_anew_of_which_only_an_invalid_one_is_there(self, call: InThisProcess, url: str) -> None:
        upgrade(url, "0002")
        run(url, "CREATE INDEX ix_cabinet_recovery_lead_id ON public.module_ct_cabinet_leads (id)")
        run(url, "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'ix_cabinet_recovery_lead_id'::regclass")

        done = psql(url, call("migrate", "--sql", DATABASE_URL=url).stdout)

        assert done.returncode == 0, done.stderr
        assert "COALESCE" in dump(url)["INDEX public ix_cabinet_recovery_lead_id"]

    def test_of_another_day_changes_nothing(self, call: InThisProcess, url: str) -> None:
        written = call("migrate", "--sql", DATABASE_URL=url).stdout
        upgrade(url, "0001")
        before = dump(url)

        done = psql(url, written)

        assert done.returncode == 3
        assert "the schema stands at 0001 by now: write the script anew" in done.stderr
        assert dump(url) == before

    def test_refuses_a_host_that_does_not_fit_any_more(self, call: InThisProcess, url: str) -> None:
        written = call("migrate", "--sql", DATABASE_URL=url).stdout
        run(url, "ALTER TABLE canon.identity_links DROP COLUMN evidence")
        before = dump(url)

        done = psql(url, written)

        assert done.returncode == 3
        assert "canon.identity_links has no column evidence" in done.stderr
        assert dump(url) == before

    def test_waits_for_a_lock_a_tenth_of_a_second_at_a_time(self, call: InThisProcess, url: str) -> None:
        upgrade(url, "0004")
        script = call("migrate", "--sql", DATABASE_URL=url).stdout
        with psycopg.connect(url) as holder, closing(Database(url)) as operator:
            holder.execute("LOCK TABLE canon.identity_links IN ROW EXCLUSIVE MODE")
            running = subprocess.Popen(
                [runnable_binaries() / "psql", "-X", "-q", url],
                stdin=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            assert running.stdin and running.stderr
            running.stdin.write(script)
            running.stdin.close()
            told = next(line for line in running.stderr if "locked" in line)
            assert operator.run("UPDATE canon.identity_links SET match_score = 1 WHERE source_pk = 'nobody'") == []
            holder.rollback()
            running.stderr.read()
            running.stderr.close()
            assert running.wait(30) == 0

        assert "a host table is locked; trying again" in told


MISFITS = {
    "ALTER TABLE canon.identity_links DROP COLUMN evidence": "canon.identity_links has no column evidence",
    "ALTER TABLE ops.identity_matching_jobs RENAME source_id TO source": (
        "ops.identity_matching_jobs has no column source_id"
    ),
    "ALTER TABLE canon.identity_origin ALTER evidence TYPE json": (
        "canon.identity_origin.evidence is json, not jsonb"
    ),
    "ALTER TABLE canon.identity_links ALTER linked_at TYPE timestamp": (
        "canon.identity_links.linked_at is timestamp without time zone, not timestamp with time zone"
    ),
    "ALTER TABLE canon.identity_links ALTER match_rule TYPE varchar(10)": (
        "canon.identity_links.match_rule is character varying(10), too short for 'cabinet_recovery'"
    ),
    "ALTER TABLE canon.identity_origin ALTER origin_confidence TYPE numeric(3, 2)": (
        "canon.identity_origin.origin_confidence is numeric(3,2), too small for 95"
    ),
    "ALTER TYPE canon.decided_by_type RENAME VALUE 'manual' TO 'MANUAL'": (
        "canon.identity_origin.decided_by is canon.decided_by_type, which has no value 'manual'"
    ),
    "ALTER TABLE canon.identity_links DROP CONSTRAINT uq_identity_links_source": (
        "canon.identity_links has no unique index on (source_table, source_pk)"
    ),
    "DROP INDEX public.uq_leads_external": (
        "public.module_ct_cabinet_leads has no unique index on (external_id)"
    ),
    "ALTER TABLE canon.identity_origin ADD reviewer varchar NOT NULL": (
        "canon.identity_origin.reviewer is NOT NULL without a default, and the service does not know it"
    ),
    "ALTER TABLE ops.identity_matching_jobs DROP CONSTRAINT uq_jobs, "
    "ADD CONSTRAINT uq_jobs UNIQUE (source_type, source_id) DEFERRABLE": (
        "ops.identity_matching_jobs has no unique index on (source_type, source_id)"
    ),
    "ALTER VIEW ops.v_payment_calculation RENAME lead_date TO day": "ops.v_payment_calculation has no column lead_date",
    "ALTER VIEW ops.v_payment_calculation SET SCHEMA canon": (
        "ops.v_payment_calculation is missing, though others of the host's objects are here "
        "(there is canon.v_payment_calculation)"
    ),
    "ALTER TABLE ops.cabinet_lead_recovery_audit DROP CONSTRAINT cabinet_lead_recovery_audit_pkey": (
        "ops.cabinet_lead_recovery_audit has no unique index on (lead_id)"
    ),
}  # fmt: skip
FITTING = (
    "ALTER TABLE canon.identity_links ALTER source_pk TYPE text, ALTER match_rule TYPE varchar(50)",
    "ALTER TABLE canon.identity_links ALTER match_score TYPE bigint",
    "ALTER TABLE ops.identity_matching_jobs ALTER source_id TYPE varchar, ALTER attempt_count TYPE bigint",
    "ALTER TABLE canon.identity_origin ALTER origin_confidence TYPE numeric",
    "ALTER TABLE canon.identity_origin ALTER origin_source_id TYPE text",
    "ALTER TYPE canon.origin_tag SET SCHEMA public",
    "ALTER TABLE canon.identity_origin ADD reviewed boolean NOT NULL DEFAULT false",
    "ALTER TABLE ops.cabinet_lead_recovery_audit ALTER lead_id TYPE text",
)


class TestTheHostsObjects:
    def test_that_do_not_fit_are_named(self, url: str) -> None:
        with psycopg.connect(url) as connection:
            for change, misfit in MISFITS.items():
                connection.execute(change.encode())
                with pytest.raises(HostDoesNotFit) as refused:
                    require_fitting_host(connection)
                connection.rollback()

                assert refused.value.misfits == (misfit,)

    def test_that_do_not_fit_in_many_ways_are_refused_with_one_list_and_nothing_is_changed(
        self, call: InThisProcess, url: str
    ) -> None:
        run(url, ";".join(list(MISFITS)[:6]))
        before = dump(url)

        for option in ((), ("--plan",), ("--sql",)):
            done = call("migrate", *option, DATABASE_URL=url)

            assert (done.returncode, done.stdout) == (3, "")
            *listed, last = done.stderr.splitlines()
            assert {line.strip() for line in listed} == set(list(MISFITS.values())[:6])
            assert last == "consumer: the host's schema does not fit in 6 places, listed above; nothing was changed"
        assert dump(url) == before

    def test_of_types_that_work_as_well_are_accepted_and_served(self, url: str) -> None:
        run(url, "DROP VIEW ops.v_dashboard, ops.v_cabinet_identity_recovery_impact_14d, "
            "ops.v_cabinet_lead_identity_effective")  # fmt: skip
        run(url, ";".join(FITTING))

        migrate(Address.parse(url))

        with closing(Database(url)) as database:
            result = database.sweep().as_job_result()
        assert (result["processed"], result["origins_created"], result["errors"]) == (3, 3, [])

    def test_with_an_enum_that_the_new_tables_could_not_use_are_refused(self, url: str) -> None:
        run(url, "DROP SCHEMA canon, ops CASCADE; DROP TABLE public.module_ct_cabinet_leads; DROP TYPE confidencelevel")
        run(url, "CREATE SCHEMA crm; CREATE TYPE crm.origin_tag AS ENUM ('cabinet_lead')")

        with pytest.raises(HostDoesNotFit) as refused:
            migrate(Address.parse(url))

        assert [misfit[:27] for misfit in refused.value.misfits] == ["the type crm.origin_tag is n"[:27]]


class TestInterrupted:
    @pytest.mark.slow
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=lambda number: number.name)
    def test_anywhere_it_can_be_repeated(
        self, call: InThisProcess, url: str, hosts: TemplateDatabase, number: signal.Signals
    ) -> None:
        """Cut off as soon as it says that a step begins: once in each, and each run goes on with the next."""
        undisturbed = hosts.fresh()
        migrate(Address.parse(undisturbed))

        for step in range(1, 8):
            status = self._cut_off(url, number, at_line=2 if step > 1 else 1)
            if status == 0:
                break

        assert status == 0 or call("migrate", DATABASE_URL=url).returncode == 0
        assert dump(url) == dump(undisturbed)
        hosts.drop(undisturbed)

    def test_after_any_statement_it_can_be_repeated_and_so_can_what_takes_it_back(
        self, monkeypatch: pytest.MonkeyPatch, url: str, hosts: TemplateDatabase
    ) -> None:
        undisturbed = hosts.fresh()
        before = dump(undisturbed)
        migrate(Address.parse(undisturbed))

        self._repeat_until_done(monkeypatch, lambda: migrate(Address.parse(url)))
        assert dump(url) == dump(undisturbed)

        self._repeat_until_done(monkeypatch, lambda: uninstall(Address.parse(url)))
        assert dump(url) == before
        hosts.drop(undisturbed)

    def _repeat_until_done(self, monkeypatch: pytest.MonkeyPatch, do: Callable[[], None]) -> None:
        """Each run comes one statement further than the last, and is cut off before that is told of as a step done."""
        run_to_its_end, done = execution.run, set[str]()

        def run_and_cut_off(statement: str) -> None:
            run_to_its_end(statement)
            if statement not in done:
                done.add(statement)
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(execution, "run", run_and_cut_off)
            while True:
                with suppress(KeyboardInterrupt):
                    do()
                    break

    def _cut_off(self, url: str, number: signal.Signals, at_line: int) -> int:
        with subprocess.Popen(
            [sys.executable, "-m", "consumer", "migrate"],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ELSEWHERE,
            env=environment(url),
        ) as process:
            assert process.stderr
            for _ in range(at_line):
                line = process.stderr.readline()
            if line.startswith("Running"):
                process.send_signal(number)
            rest = process.stderr.read()
            process.wait(30)
        assert "Traceback" not in rest
        assert process.returncode in {0, 130, -9}
        return process.returncode

    def test_while_the_index_waits_it_says_for_whom_and_a_killed_one_is_built_anew(
        self, call: InThisProcess, url: str
    ) -> None:
        upgrade(url, "0002")
        with psycopg.connect(url, application_name="nightly report") as writer, closing(Database(url)) as operator:
            writer.execute("UPDATE public.module_ct_cabinet_leads SET status = 'seen'")
            with subprocess.Popen(
                [sys.executable, "-m", "consumer", "migrate"],
                stdin=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                cwd=ELSEWHERE,
                env=environment(url),
            ) as process:
                assert process.stderr
                told = next(line for line in process.stderr if line.startswith("waiting for the end of"))
                process.kill()
            assert "nightly report, idle in transaction" in told
            # The server goes on until it is told, or done.
            operator.run(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE query LIKE 'CREATE INDEX CONCURRENTLY%%' AND datname = current_database()"
            )
            writer.rollback()
            eventually(
                lambda: (
                    not operator.value(
                        "SELECT indisvalid FROM pg_index WHERE indexrelid = 'ix_cabinet_recovery_lead_id'::regclass"
                    )
                )
            )
            assert call("migrate", DATABASE_URL=url).returncode == 0
            assert operator.value(
                "SELECT indisvalid FROM pg_index WHERE indexrelid = 'ix_cabinet_recovery_lead_id'::regclass"
            )


class TestUninstall:
    def test_leaves_the_hosts_schema_as_it_was(self, call: InThisProcess, url: str) -> None:
        before = dump(url)
        migrate(Address.parse(url))
        run(url, Roles().as_sql())

        done = call("uninstall", "--yes", DATABASE_URL=url)

        assert (done.returncode, done.stderr.splitlines()[-1]) == (0, "the service is removed")
        assert dump(url) == before
        again = call("uninstall", "--yes", DATABASE_URL=url)
        assert (again.returncode, again.stderr) == (0, "there is nothing to remove\n")

    def test_keeps_what_was_recovered_and_the_audit_unless_told_otherwise(self, call: InThisProcess, url: str) -> None:
        migrate(Address.parse(url))
        with closing(Database(url)) as database:
            database.sweep()
            recovered = database.run("SELECT * FROM canon.identity_origin ORDER BY person_key")

            assert call("uninstall", "--yes", DATABASE_URL=url).returncode == 0
            assert database.value("SELECT count(*) FROM ops.cabinet_lead_recovery_audit") == 4
            assert call("uninstall", "--yes", "--drop-audit", DATABASE_URL=url).returncode == 0

            assert database.value("SELECT to_regclass('ops.cabinet_lead_recovery_audit')") is None
            assert database.run("SELECT * FROM canon.identity_origin ORDER BY person_key") == recovered
        assert [entry for entry in dump(url) if is_ours(entry)] == []

    def test_asks_and_where_nobody_can_be_asked_wants_yes(self, call: InThisProcess, url: str) -> None:
        migrate(Address.parse(url))
        before = dump(url)

        done = call("uninstall", DATABASE_URL=url)

        assert (done.returncode, dump(url)) == (2, before)
        assert "give --yes" in done.stderr

    def test_is_refused_while_a_consumer_is_connected(self, call: InThisProcess, url: str) -> None:
        migrate(Address.parse(url))
        before = dump(url)
        with Daemon(url) as daemon:
            daemon.wait_until_ready()

            done = call("uninstall", "--yes", DATABASE_URL=url)

            assert (done.returncode, dump(url)[IMPACT]) == (4, before[IMPACT])
            assert "a consumer is connected (cabinet-recovery listener, backend " in done.stderr
            assert daemon.stop() == 0
        # The server takes a moment to see that its sessions are gone.
        eventually(lambda: call("uninstall", "--yes", DATABASE_URL=url).returncode == 0)

    def test_is_refused_while_a_view_of_the_hosts_reads_ours(self, call: InThisProcess, url: str) -> None:
        migrate(Address.parse(url))
        run(url, "CREATE VIEW public.v_waiting AS SELECT lead_id, reason FROM ops.v_cabinet_recovery_decision")
        before = dump(url)

        done = call("uninstall", "--yes", DATABASE_URL=url)

        assert (done.returncode, dump(url)) == (4, before)
        assert "v_waiting reads ops.v_cabinet_recovery_decision" in done.stderr

    def test_waits_for_locks_as_migrate_does_and_is_repeated_where_it_was_cut_off(
        self, call: InThisProcess, hosts: TemplateDatabase, url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from db.connect import TableBusy
        from db.uninstall import uninstall

        before = dump(url)
        migrate(Address.parse(url))
        monkeypatch.setattr("migrations.execution.LOCK_ATTEMPTS", 2)
        sister = hosts.fresh()  # its tables have the same oids
        with psycopg.connect(sister) as elsewhere, psycopg.connect(url) as reader:
            for connection in (elsewhere, reader):
                connection.execute("SELECT FROM ops.identity_matching_jobs")
            backend = reader.info.backend_pid
            with pytest.raises(TableBusy, match=rf"ops\.identity_matching_jobs is locked by backend {backend} "):
                uninstall(Address.parse(url))
        hosts.drop(sister)

        assert call("uninstall", "--yes", DATABASE_URL=url).returncode == 0
        assert dump(url) == before
