"""The migrations, on an empty database and on one like the host's, whose own objects they must leave as they are."""

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import IO

import psycopg
import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy.dialects import postgresql

import db
from db import tables
from db.connect import SCHEMA_REVISION, Address
from db.engine import open_engine
from db.migrate import migrate
from db.reports import read_status
from tests.database import Database
from tests.host import EFFECTIVE, HOST, IMPACT, OLD_VIEWS, VERSION_TABLE, dump, is_ours, run
from tests.processes import ELSEWHERE, environment, eventually, run_command
from tests.servers import TemplateDatabase

CHECKOUT = Path(__file__).parents[2]
OBJECT_FILES = sorted([*Path(db.__file__).parent.glob("views/*.sql"), *Path(db.__file__).parent.glob("triggers/*.sql")])


@pytest.fixture(scope="module")
def empty(server_url: str) -> Iterator[TemplateDatabase]:
    with TemplateDatabase(server_url, prepare=lambda _: None) as template:
        yield template


@pytest.fixture
def url(empty: TemplateDatabase) -> Iterator[str]:
    """A database with nothing in it."""
    conninfo = empty.fresh()
    yield conninfo
    empty.drop(conninfo)


@pytest.fixture
def host_url(url: str) -> str:
    """A database with the host's objects and rows in it, and nothing of ours."""
    run(url, HOST)
    return url


def config(url: str) -> Config:
    return Config(toml_file=CHECKOUT / "pyproject.toml", attributes={"url": url})


def upgrade(url: str, revision: str = "head") -> None:
    command.upgrade(config(url), revision)


def downgrade(url: str, revision: str = "base") -> None:
    command.downgrade(config(url), revision)


def test_an_empty_database_gets_the_host_s_objects_and_ours(url: str) -> None:
    upgrade(url)

    found = dump(url)
    host_tables = {entry for entry in found if re.match("TABLE (canon|ops|public) ", entry) and not is_ours(entry)}
    assert host_tables == {
        *("TABLE canon identity_registry", "TABLE canon identity_links", "TABLE canon identity_origin"),
        *("TABLE canon identity_origin_history", "TABLE ops identity_matching_jobs"),
        *("TABLE public module_ct_cabinet_leads", "TABLE ops cabinet_lead_recovery_audit"),
    }
    assert {entry.split()[-1] for entry in found if entry.startswith("VIEW")} == {
        *(file.stem for file in OBJECT_FILES if file.parent.name == "views"),
        "v_payment_calculation",
    }
    assert len([entry for entry in found if entry.startswith("TRIGGER") and is_ours(entry)]) == 4


def test_a_second_run_does_nothing(url: str) -> None:
    upgrade(url)
    before = dump(url)

    upgrade(url)

    assert dump(url) == before


class TestTheHostsDatabase:
    def test_is_left_byte_for_byte_but_for_the_two_views_that_are_ours_too(self, host_url: str) -> None:
        run(host_url, OLD_VIEWS)
        before = dump(host_url)

        upgrade(host_url)

        after = dump(host_url)
        assert {entry for entry, text in before.items() if after.get(entry) != text} == {EFFECTIVE, IMPACT}
        assert [entry for entry in set(after) - set(before) if not is_ours(entry)] == []

    def test_is_served_with_its_earlier_audit(self, host_url: str) -> None:
        run(host_url, OLD_VIEWS)
        upgrade(host_url)

        with closing(Database(host_url)) as database:
            result = database.sweep().as_job_result()
            audit = database.audit_of("lead-1")
            dashboard = database.run("SELECT * FROM ops.v_dashboard ORDER BY impact_bucket")

        assert (result["processed"], result["audit_created"], result["audit_updated"]) == (3, 2, 1)
        assert audit and audit["first_recovered_at"].isoformat().startswith("2026-01-02")
        assert audit["last_recovered_at"] > audit["first_recovered_at"]
        assert {row["impact_bucket"]: row["leads"] for row in dashboard}["still_unidentified"] == 1

    def test_is_after_a_downgrade_as_it_was_before(self, host_url: str) -> None:
        run(host_url, OLD_VIEWS)
        before = dump(host_url)
        upgrade(host_url)

        downgrade(host_url)

        after = dump(host_url)
        assert {entry: text for entry, text in after.items() if entry not in VERSION_TABLE} == before

    @pytest.mark.parametrize(
        ("column", "instead"),
        [
            ("'still_unidentified'::text AS impact_bucket", "'x'::text AS impact_bucket, 1 AS extra"),
            ("lead_date + 14 AS window_end_14d", "lead_date + interval '14 days' AS window_end_14d"),
            ("false AS has_claim, ", ""),
        ],
        ids=["one more column", "a column of another type", "a column less"],
    )
    def test_keeps_a_view_of_other_columns_and_that_is_told(self, host_url: str, column: str, instead: str) -> None:
        assert column in OLD_VIEWS
        run(host_url, OLD_VIEWS.replace(column, instead))
        before = dump(host_url)

        told: list[str] = []
        migrate(Address.parse(host_url), tell=told.append)

        after = dump(host_url)
        assert "ops.v_cabinet_identity_recovery_impact_14d has columns of its own and is left as it is" in told
        assert {entry for entry, text in before.items() if after.get(entry) != text} == {EFFECTIVE}
        with closing(Database(host_url)) as database:
            assert database.sweep().as_job_result()["processed"] == 3
        with open_engine(Address.parse(host_url), "test") as engine:
            assert read_status(engine).pending_leads == 0
        downgrade(host_url)
        assert dump(host_url)[IMPACT] == before[IMPACT]

    def test_keeps_the_options_and_rights_of_a_view_that_was_replaced(self, host_url: str) -> None:
        run(host_url, OLD_VIEWS)
        run(host_url, "ALTER VIEW ops.v_cabinet_lead_identity_effective SET (security_barrier = true)")
        run(host_url, "GRANT SELECT ON ops.v_cabinet_lead_identity_effective TO PUBLIC")
        before = dump(host_url)
        upgrade(host_url)

        downgrade(host_url)

        after = dump(host_url)
        assert {entry: text for entry, text in after.items() if entry not in VERSION_TABLE} == before

    @pytest.mark.parametrize("before", ["", OLD_VIEWS], ids=["had none", "had them"])
    def test_keeps_the_views_that_it_made_anew_after_ours(self, host_url: str, before: str) -> None:
        """It re-runs its own CREATE OR REPLACE; a downgrade takes away only what is ours."""
        run(host_url, before)
        upgrade(host_url)
        anew = OLD_VIEWS.replace("'still_unidentified'", "'new_rule'").split("CREATE VIEW ops.v_dashboard")[0]
        run(host_url, anew.replace("CREATE VIEW", "CREATE OR REPLACE VIEW"))
        theirs = dump(host_url)

        downgrade(host_url)

        after = dump(host_url)
        assert (after.get(EFFECTIVE), after.get(IMPACT)) == (theirs[EFFECTIVE], theirs[IMPACT])


class TestADowngrade:
    def test_leaves_the_audit_and_the_host_s_objects(self, url: str) -> None:
        upgrade(url)
        before = dump(url)

        downgrade(url)

        after = dump(url)
        assert after.items() <= (before | {entry: after[entry] for entry in VERSION_TABLE}).items()
        gone = set(before) - set(after)
        assert {entry for entry in gone if not is_ours(entry)} == {EFFECTIVE, IMPACT}
        assert {entry for entry in after if is_ours(entry)} - VERSION_TABLE == {
            *("TABLE ops cabinet_recovery_claim", "TABLE DATA ops cabinet_recovery_claim"),
            "CONSTRAINT ops cabinet_recovery_claim cabinet_recovery_claim_pkey",
        }

    def test_can_be_upgraded_again(self, url: str) -> None:
        upgrade(url)
        before = dump(url)
        with closing(Database(url)) as database:
            lead = database.lead(matched_to=database.person())
            database.sweep()
            first = database.audit_of(lead)

        downgrade(url)
        upgrade(url)

        with closing(Database(url)) as database:
            assert database.audit_of(lead) == first
            assert database.sweep().as_job_result()["processed"] == 0
        definitions = {entry: text for entry, text in dump(url).items() if not entry.startswith(("TABLE DATA", "SEQ"))}
        assert definitions.items() <= before.items()
        assert len(definitions) == len([entry for entry in before if not entry.startswith(("TABLE DATA", "SEQ"))])

    def test_of_each_step_can_be_taken_back_and_repeated(self, host_url: str) -> None:
        revisions = [script.revision for script in ScriptDirectory.from_config(config(host_url)).walk_revisions()]
        for revision in reversed(revisions):
            upgrade(host_url, revision)
            downgrade(host_url, "-1")
            upgrade(host_url, revision)

        assert run_command("migrate", url=host_url).stderr == "the schema is up to date\n"


class TestOnALiveDatabase:
    def test_an_interrupted_index_is_built_anew(self, host_url: str) -> None:
        upgrade(host_url, "0002")

        with ThreadPoolExecutor() as pool, psycopg.connect(host_url) as writer, closing(Database(host_url)) as operator:
            writer.execute("UPDATE public.module_ct_cabinet_leads SET status = 'seen'")  # the build waits for its end
            migrating = pool.submit(run_command, "migrate", url=host_url)
            (building,) = eventually(
                lambda: operator.run(
                    "SELECT pid FROM pg_stat_activity WHERE query LIKE 'CREATE INDEX CONCURRENTLY%%' "
                    "AND wait_event_type = 'Lock' AND datname = current_database()"
                )
            )
            operator.run("SELECT pg_cancel_backend(%s)", building["pid"])
            interrupted = migrating.result()
            writer.rollback()

            assert self._index_is_valid(operator) is False
            assert interrupted.returncode == 4
            assert interrupted.stderr.splitlines()[-1].startswith("consumer: the database answered: canceling")
            assert "Traceback" not in interrupted.stderr
            assert run_command("migrate", url=host_url).returncode == 0
            assert self._index_is_valid(operator) is True

    def _index_is_valid(self, database: Database) -> bool:
        return bool(
            database.value(
                "SELECT indisvalid FROM pg_index WHERE indexrelid = 'public.ix_cabinet_recovery_lead_id'::regclass"
            )
        )

    def test_a_locked_table_is_tried_again_and_nobody_queues_for_long(self, host_url: str) -> None:
        upgrade(host_url, "0004")
        waits: list[float] = []

        with (
            psycopg.connect(host_url) as holder,
            psycopg.connect(host_url, autocommit=True) as writer,
            tempfile.TemporaryFile("w+") as told,
        ):
            holder.execute("LOCK TABLE canon.identity_links IN ROW EXCLUSIVE MODE")
            migrating = subprocess.Popen(
                [sys.executable, "-m", "consumer", "migrate"],
                cwd=ELSEWHERE,
                env=environment(host_url),
                stderr=told,
                stdin=subprocess.DEVNULL,
            )

            def write() -> bool:
                started = time.perf_counter()
                writer.execute("UPDATE canon.identity_links SET match_score = 1 WHERE source_pk = 'nobody'")
                waits.append(time.perf_counter() - started)
                return len([line for line in lines_of(told) if LOCKED.fullmatch(line)]) >= 2

            eventually(write)
            holder.rollback()
            assert migrating.wait(30) == 0

        waited = [seconds for seconds in waits if seconds > 0.05]
        print(f"of {len(waits)} writes beside the migrator {len(waited)} waited, at most {1e3 * max(waits):.0f} ms")
        assert waited, "it did try"
        assert max(waits) < 1
        assert "TRIGGER canon identity_links cabinet_recovery_link_inserted" in dump(host_url)

    def test_a_trigger_that_is_replaced_stays_switched_as_it_was(self, host_url: str) -> None:
        upgrade(host_url, "0011")
        with psycopg.connect(host_url, autocommit=True) as owner:
            for switched in ("DISABLE", "ENABLE ALWAYS", "ENABLE REPLICA"):
                owner.execute(f"ALTER TABLE canon.identity_links {switched} TRIGGER cabinet_recovery_link_updated")
                before = owner.execute(SWITCHES).fetchall()

                upgrade(host_url, "0012")
                assert owner.execute(SWITCHES).fetchall() == before
                downgrade(host_url, "0011")
                assert owner.execute(SWITCHES).fetchall() == before

    def test_two_migrators_at_once_do_it_once(self, host_url: str) -> None:
        with ThreadPoolExecutor() as pool:
            both = list(pool.map(lambda _: run_command("migrate", url=host_url), range(2)))

        assert [done.returncode for done in both] == [0, 0], both
        assert sum(done.stderr.count("Running upgrade") for done in both) == len(
            list(ScriptDirectory.from_config(config(host_url)).walk_revisions())
        )


SWITCHES = "SELECT tgname, tgenabled FROM pg_trigger WHERE starts_with(tgname, 'cabinet_recovery_') ORDER BY tgname"
LOCKED = re.compile(
    r"canon\.identity_links is locked by backend \d+ \(.*idle in transaction, in a transaction of \d+ s\); trying again"
)


def lines_of(file: IO[str]) -> list[str]:
    file.seek(0)
    return file.read().splitlines()


def test_alembic_by_hand_does_the_same(url: str, empty: TemplateDatabase) -> None:
    by_command = empty.fresh()
    upgrade(by_command)

    done = subprocess.run(
        [Path(sys.executable).with_name("alembic"), "upgrade", "head"],
        check=False,
        capture_output=True,
        text=True,
        cwd=CHECKOUT,
        env=environment(url),
    )

    assert done.returncode == 0, done.stderr
    assert dump(url) == dump(by_command)
    empty.drop(by_command)


def test_alembic_by_hand_says_in_one_line_that_it_has_no_address() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("alembic"), "upgrade", "head"],
        check=False,
        capture_output=True,
        text=True,
        cwd=CHECKOUT,
        env=environment(None),
    )

    assert done.returncode != 0
    assert done.stderr.startswith("DATABASE_URL is not set")


class TestDrift:
    """What stands in db/ is what the migrations' frozen copies have made."""

    @pytest.mark.parametrize("file", OBJECT_FILES, ids=lambda file: file.stem)
    def test_there_is_none_between_the_sources_and_the_migrated_database(self, database: Database, file: Path) -> None:
        with database.connection.transaction(force_rollback=True):
            before = definitions(database)
            database.connection.execute(file.read_bytes())
            after = definitions(database)

        assert {name for name in before | after if before.get(name) != after.get(name)} == set()

    @pytest.mark.parametrize("file", OBJECT_FILES, ids=lambda file: file.stem)
    def test_each_file_holds_the_one_object_of_its_name(self, file: Path) -> None:
        made = re.findall(
            r"^CREATE OR REPLACE (VIEW|FUNCTION|TRIGGER) (?:ops\.)?(\w+)", file.read_text(), flags=re.MULTILINE
        )

        assert {name for _, name in made} == {file.stem}
        assert len({kind for kind, _ in made}) == len(made)
        assert file.read_text().startswith(f"-- {file.stem}: ")

    def test_every_object_of_ours_has_its_file(self, database: Database) -> None:
        named = {re.split(r"[ (]", name)[1].removeprefix("ops.") for name in definitions(database)}

        assert named - {"v_payment_calculation"} == {file.stem for file in OBJECT_FILES}

    @pytest.mark.parametrize("table", tables.metadata.sorted_tables, ids=lambda table: table.name)
    def test_there_is_none_between_db_tables_and_the_migrated_database(
        self, database: Database, table: sa.Table
    ) -> None:
        engine = sa.create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(database.owner_url))
        found = sa.Table(table.name, sa.MetaData(), schema=table.schema, autoload_with=engine)
        engine.dispose()

        assert shape(found) == shape(table)

    def test_the_code_asks_for_the_newest_migration(self, url: str) -> None:
        assert ScriptDirectory.from_config(config(url)).get_current_head() == SCHEMA_REVISION


def shape(table: sa.Table) -> list[tuple[str, str, bool, bool, bool]]:
    dialect = postgresql.dialect()
    return [
        (
            column.name,
            column.type.compile(dialect),
            bool(column.nullable),
            column.primary_key,
            column.identity is not None,
        )
        for column in table.columns
    ]


def definitions(database: Database) -> dict[str, str]:
    """Every view, function and trigger of ours, as the server has it."""
    rows = database.run("""
        SELECT 'view ' || relname AS name, pg_get_viewdef(oid) || COALESCE(reloptions::text, '') AS definition
        FROM pg_class WHERE relnamespace = 'ops'::regnamespace AND relkind = 'v'
        UNION ALL
        SELECT
            'columns ' || relname,
            string_agg(attname || ' ' || format_type(atttypid, atttypmod), ', ' ORDER BY attnum)
        FROM pg_class INNER JOIN pg_attribute ON attrelid = pg_class.oid
        WHERE relnamespace = 'ops'::regnamespace AND relkind = 'v'
        GROUP BY relname
        UNION ALL
        SELECT 'function ' || proname, pg_get_functiondef(oid) || COALESCE(proacl::text, '')
        FROM pg_proc WHERE pronamespace = 'ops'::regnamespace
        UNION ALL
        SELECT 'trigger ' || tgname, pg_get_triggerdef(oid) || tgenabled::text
        FROM pg_trigger WHERE NOT tgisinternal AND tgname LIKE 'cabinet_recovery%%'
    """)
    return {row["name"]: row["definition"] for row in rows}
