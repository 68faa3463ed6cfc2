"""Adoption into a host that never stops: cutover and the way back, upgrades, and locks, each under load."""

import itertools
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Self

import psycopg
import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

from db.connect import SCHEMA_REVISION, Address
from db.engine import open_engine
from db.host import open_session
from db.migrate import migrate
from db.trigger_switch import switch
from db.uninstall import uninstall
from tests.database import Database
from tests.host import EFFECTIVE, HOST, IMPACT, OLD_VIEWS, dump, is_ours, run
from tests.processes import Daemon, own_server, run_command
from tests.servers import TemplateDatabase

PROJECT_FILE = Path(__file__).parents[2] / "pyproject.toml"
YEAR_OLD_LEADS = int(os.environ.get("YEAR_OLD_LEADS", "200000"))
LIVE_LEADS = int(os.environ.get("LIVE_LEADS", "5000000"))
LONGEST_LOCK_MS = 200

# The old job, row by row: it knows no holder of an origin, and the last lead of a person takes it on every run.
OLD_JOB = """
DO $$
DECLARE
    lead record;
BEGIN
    FOR lead IN
        SELECT effective.lead_id, effective.person_key_effective AS person_key
        FROM ops.v_cabinet_lead_identity_effective AS effective
        LEFT JOIN canon.identity_origin AS origin ON effective.person_key_effective = origin.person_key
        WHERE effective.person_key_effective IS NOT NULL AND origin.origin_source_id IS DISTINCT FROM effective.lead_id
        ORDER BY effective.lead_id
    LOOP
        INSERT INTO canon.identity_origin
            (person_key, origin_tag, origin_source_id, origin_confidence, origin_created_at, resolution_status)
        VALUES (lead.person_key, 'cabinet_lead', lead.lead_id, 90, now(), 'resolved_auto')
        ON CONFLICT (person_key) DO UPDATE SET origin_source_id = EXCLUDED.origin_source_id, updated_at = now();
        INSERT INTO ops.cabinet_lead_recovery_audit AS audit
            (lead_id, first_recovered_at, last_recovered_at, recovered_person_key, recovery_method)
        VALUES (lead.lead_id, now(), now(), lead.person_key, 'old_job')
        ON CONFLICT (lead_id) DO UPDATE SET last_recovered_at = now();
        COMMIT;
    END LOOP;
END
$$
"""


class Writers:
    """The host's writes while something is done to its tables, each with a stopwatch: a write and its commit."""

    def __init__(self, url: str, *, first: int = 0) -> None:
        self.waits_ms: dict[str, list[float]] = {}
        self.matched: list[str] = []
        self._url = url
        self._first = first
        self._stopping = threading.Event()
        self._errors: list[psycopg.Error] = []
        self._threads = [
            threading.Thread(target=self._keep, args=(name, write))
            for name, write in (("leads", self._write_lead), ("links", self._write_link), ("jobs", self._write_job))
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()
        if self._errors:
            raise self._errors[0]

    def _keep(self, name: str, write: Callable[[psycopg.Connection, int], None]) -> None:
        waits = self.waits_ms.setdefault(name, [])
        try:
            with psycopg.connect(self._url, application_name=f"engine: {name}", autocommit=True) as connection:
                for number in itertools.count(self._first):
                    if self._stopping.is_set():
                        return
                    started = time.perf_counter()
                    write(connection, number)
                    waits.append(1e3 * (time.perf_counter() - started))
                    self._stopping.wait(0.002)
        except psycopg.Error as error:  # what the engine would have seen
            self._errors.append(error)

    def _write_lead(self, connection: psycopg.Connection, number: int) -> None:
        connection.execute(
            "INSERT INTO public.module_ct_cabinet_leads (external_id, lead_created_at) VALUES (%s, localtimestamp)",
            [f"live-{number}"],
        )

    def _write_link(self, connection: psycopg.Connection, number: int) -> None:
        self._match(
            connection,
            f"live-link-{number}",
            "INSERT INTO canon.identity_links (person_key, source_table, source_pk, snapshot_date, match_rule, "
            "match_score, confidence_level) SELECT person_key, 'module_ct_cabinet_leads', %(lead)s, now(), "
            "'phone', 90, 'HIGH' FROM person",
        )

    def _write_job(self, connection: psycopg.Connection, number: int) -> None:
        self._match(
            connection,
            f"live-job-{number}",
            "INSERT INTO ops.identity_matching_jobs (source_type, source_id, status, matched_person_key) "
            "SELECT 'cabinet', %(lead)s, 'matched', person_key FROM person",
        )

    def _match(self, connection: psycopg.Connection, lead: str, match: str) -> None:
        # The foreign key is checked at the end of the statement: one statement is enough for all three rows.
        connection.execute(
            "WITH person AS (INSERT INTO canon.identity_registry (person_key, confidence_level) "
            "VALUES (gen_random_uuid(), 'HIGH') RETURNING person_key), "
            "lead AS (INSERT INTO public.module_ct_cabinet_leads (external_id, lead_created_at) "
            "VALUES (%(lead)s, localtimestamp)) " + match,  # type: ignore[operator] # both are here
            {"lead": lead},
        )
        self.matched.append(lead)

    def worst_ms(self) -> float:
        return max(max(waits) for waits in self.waits_ms.values())

    def in_words(self) -> str:
        return "; ".join(
            f"{name}: {len(waits)} commits, median {statistics.median(waits):.1f} ms, worst {max(waits):.0f} ms"
            for name, waits in sorted(self.waits_ms.items())
        )


@pytest.fixture(scope="module")
def hosts(server_url: str) -> Iterator[TemplateDatabase]:
    with TemplateDatabase(server_url, prepare=lambda url: run(url, HOST + OLD_VIEWS)) as template:
        yield template


@pytest.fixture
def host(hosts: TemplateDatabase) -> Iterator[Database]:
    """The host's database, without the service."""
    conninfo = hosts.fresh()
    with closing(Database(conninfo)) as database:
        yield database
    hosts.drop(conninfo)


def config(url: str) -> Config:
    return Config(toml_file=PROJECT_FILE, attributes={"url": url})


def unrecovered(database: Database, leads: list[str]) -> set[str]:
    """The leads that have no audit row, or no origin of their own."""
    rows = database.run(
        "SELECT lead_id FROM unnest(%s::text[]) AS lead_id WHERE NOT EXISTS ("
        "SELECT FROM ops.cabinet_lead_recovery_audit AS audit WHERE audit.lead_id = lead_id.lead_id) "
        "OR NOT EXISTS (SELECT FROM canon.identity_origin WHERE origin_source_id = lead_id.lead_id)",
        leads,
    )
    return {row["lead_id"] for row in rows}


def written(database: Database) -> dict[str, list[tuple[Any, ...]]]:
    """The versions of all rows that recovery writes for others to see: equal means that nothing was written."""
    tables = ("identity_links", "identity_origin", "identity_origin_history", "cabinet_lead_recovery_audit")
    return {table: rows for table, rows in database.row_versions().items() if table.split(".")[1] in tables}


class TestBesideTheOldJob:
    def test_its_thefts_of_origins_cause_no_writes_of_ours(self, host: Database) -> None:
        """Of two leads of one person it points the origin at the one that has it not, on every run."""
        person = host.person()
        for lead in ("rival-1", "rival-2"):
            host.lead(lead)
            host.link(lead, person)
        migrate(Address.parse(host.url))
        with Daemon(host.url, sweep_interval_seconds="1", reconcile_slice="10000", log_level="debug") as daemon:
            daemon.wait_until_ready()
            host.sweep()
            holders = set()
            for _ in range(4):
                host.connection.execute(OLD_JOB)
                origin = host.origin_of(person)
                assert origin
                holders.add(origin["origin_source_id"])
                before = written(host)
                host.sweep()
                assert written(host) == before
            # One whole turn of the daemon's own look at all leads.
            host.job(host.lead("last"), host.person())
            daemon.wait_for_leads(["last"])
            assert host.origin_of(person) == origin
            assert daemon.stop() == 0

        assert holders == {"rival-1", "rival-2"}, "the old job did re-point it"


class TestCutover:
    def test_goes_over_and_back_and_over_again_and_loses_nothing(self, host: Database) -> None:
        """As docs/cutover.md has it. The engine never stops; what it matches meanwhile is recovered in the end."""
        address = Address.parse(host.url)
        with Writers(host.url) as writers:
            host.connection.execute(OLD_JOB)  # its last run; cron is off
            migrate(address)
            assert host.sweep().as_job_result()["errors"] == []
            with Daemon(host.url, log_level="debug") as daemon:
                daemon.wait_until_ready()
                daemon.wait_for_leads([writers.matched[-1]])
                assert daemon.stop() == 0
            with open_engine(address, "test") as engine:  # the way back
                switch(engine, "DISABLE")
            events = len(host.events())
            host.connection.execute(OLD_JOB)
            assert len(host.events()) <= events
            with open_engine(address, "test") as engine:  # and over again
                switch(engine, "ENABLE")
        while host.sweep().as_job_result()["processed"]:
            pass

        assert writers.matched
        # A job without link is no origin for the old job's rows; ours has all of them.
        assert unrecovered(host, writers.matched) == set()
        assert host.events() == []


class TestUpgrades:
    def test_from_every_revision_keep_the_data_and_come_to_the_same(
        self, host: Database, hosts: TemplateDatabase
    ) -> None:
        revisions = [one.revision for one in ScriptDirectory.from_config(config(host.url)).walk_revisions()][::-1]
        migrate(Address.parse(host.url))
        host.sweep()
        target = {entry for entry in dump(host.url).items() if not entry[0].startswith(("TABLE DATA", "SEQ"))}
        for revision in revisions[1:-1]:
            with closing(Database(hosts.fresh())) as old:
                command.upgrade(config(old.url), revision)
                old.run("UPDATE ops.cabinet_recovery_settings SET business_time_zone = 'America/Lima'")
                old.run("INSERT INTO ops.cabinet_recovery_outbox (lead_id, source) VALUES ('lead-1', 'matching_job')")

                migrate(Address.parse(old.url))

                assert {
                    entry for entry in dump(old.url).items() if not entry[0].startswith(("TABLE DATA", "SEQ"))
                } == target
                assert old.value("SELECT business_time_zone FROM ops.cabinet_recovery_settings") == "America/Lima"
                assert old.events() == [("lead-1", "matching_job")]
                assert old.sweep().as_job_result()["processed"] == 3
                hosts.drop(old.url)

    def test_a_consumer_of_this_release_does_not_start_before_the_upgrade(self, host: Database) -> None:
        command.upgrade(config(host.url), previous_revision(host.url))

        done = run_command("run", url=host.url)

        assert done.returncode == 3
        assert "run `consumer migrate`" in done.stderr

    def test_a_running_consumer_keeps_recovering_while_all_is_replaced_under_load(self, host: Database) -> None:
        """One that needs no more than the schema before the newest, as the release before this one."""
        previous = previous_revision(host.url)
        command.upgrade(config(host.url), previous)
        with older_daemon(host.url, previous) as daemon, Writers(host.url) as writers:
            daemon.wait_until_ready()
            daemon.wait_for_leads([matched_next(writers)])
            migrate(Address.parse(host.url))
            daemon.wait_for_leads([matched_next(writers)])
            command.downgrade(config(host.url), previous)
            migrate(Address.parse(host.url))
            last = matched_next(writers)
            daemon.wait_for_leads([last])
        host.sweep()

        print(f"beside two upgrades: {writers.in_words()}")
        assert unrecovered(host, writers.matched) == set()
        assert host.value("SELECT version_num FROM ops.cabinet_recovery_alembic_version") == SCHEMA_REVISION


def previous_revision(url: str) -> str:
    script = ScriptDirectory.from_config(config(url))
    newest = script.get_revision("head")
    assert newest and isinstance(newest.down_revision, str)
    return newest.down_revision


def matched_next(writers: Writers) -> str:
    """A lead that is matched from now on."""
    seen = len(writers.matched)
    while len(writers.matched) <= seen + 1:
        time.sleep(0.001)  # the writer sets the pace
    return writers.matched[-1]


@contextmanager
def older_daemon(url: str, revision: str) -> Iterator[Daemon]:
    """A `consumer run` that is content with an older schema."""
    with older_program(revision), Daemon(url, log_level="debug") as daemon:
        yield daemon


@contextmanager
def older_program(revision: str) -> Iterator[None]:
    program = f"import db.connect; db.connect.SCHEMA_REVISION = {revision!r}; from consumer.cli import main; main()"
    popen = subprocess.Popen

    def start(arguments: list[str], **options: Any) -> "subprocess.Popen[str]":
        return popen([sys.executable, "-c", program, *arguments[3:]], **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.processes.subprocess.Popen", start)
        yield


def fill(url: str, leads: int) -> None:
    """A year of the host's: most leads are matched, some by link, some by job, some long recovered by the old job."""
    with psycopg.connect(url) as connection:
        connection.execute(
            "INSERT INTO canon.identity_registry (person_key, confidence_level) "
            "SELECT md5('p' || n)::uuid, 'HIGH' FROM generate_series(1, %s) AS n",
            [leads],
        )
        connection.execute(
            "INSERT INTO public.module_ct_cabinet_leads (external_id, lead_created_at) "
            "SELECT CASE WHEN n %% 10 > 0 THEN 'old-' || n END, now() - n %% 365 * interval '1 day' "
            "FROM generate_series(1, %s) AS n",
            [leads],
        )
        connection.execute("""
            INSERT INTO ops.identity_matching_jobs (source_type, source_id, status, matched_person_key)
            SELECT 'cabinet', lead_id, 'matched', md5('p' || n)::uuid
            FROM (
                SELECT COALESCE(external_id, id::text) AS lead_id, row_number() OVER (ORDER BY id) AS n
                FROM public.module_ct_cabinet_leads WHERE external_id IS NULL OR external_id LIKE 'old-%'
            ) AS lead
            WHERE n % 5 <> 0
        """)
        connection.execute("""
            INSERT INTO canon.identity_links
                (person_key, source_table, source_pk, snapshot_date, match_rule, match_score, confidence_level)
            SELECT matched_person_key, 'module_ct_cabinet_leads', source_id, now(), 'phone', 90, 'HIGH'
            FROM ops.identity_matching_jobs WHERE id % 3 = 0
            ON CONFLICT DO NOTHING
        """)
        connection.execute("""
            WITH recovered AS (
                INSERT INTO canon.identity_origin
                    (person_key, origin_tag, origin_source_id, origin_confidence, origin_created_at, resolution_status)
                SELECT person_key, 'cabinet_lead', source_pk, 90, now(), 'resolved_auto'
                FROM canon.identity_links WHERE id % 2 = 0
                ON CONFLICT DO NOTHING RETURNING person_key, origin_source_id
            )
            INSERT INTO ops.cabinet_lead_recovery_audit
                (lead_id, first_recovered_at, last_recovered_at, recovered_person_key, recovery_method)
            SELECT origin_source_id, now(), now(), person_key, 'old_job' FROM recovered
            ON CONFLICT DO NOTHING
        """)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("ANALYZE")


def definitions(url: str) -> dict[str, str]:
    return {entry: text for entry, text in dump(url, "--schema-only").items() if not is_ours(entry)}


@pytest.mark.scale
@pytest.mark.timeout(1800)
def test_a_host_of_a_year_is_adopted_under_load_and_left_again() -> None:
    """YEAR_OLD_LEADS says how many leads it has (200000)."""
    with own_server(shared_buffers="512MB", max_wal_size="4GB") as server:
        url = server.url()
        run(url, HOST + OLD_VIEWS)
        fill(url, YEAR_OLD_LEADS)
        before, host_version = definitions(url), "SELECT version_num FROM public.alembic_version"
        with closing(Database(url)) as database:
            with Writers(url) as writers:
                started = time.monotonic()
                migrate(Address.parse(url))
                migrated = time.monotonic()
                result = database.sweep(limit=100 * YEAR_OLD_LEADS).as_job_result()
                swept = time.monotonic()
            worst, told = writers.worst_ms(), writers.in_words()
            database.sweep(limit=100 * YEAR_OLD_LEADS)  # what was matched meanwhile
            assert database.sweep().as_job_result()["processed"] == 0
            assert result["errors"] == []
            assert unrecovered(database, writers.matched) == set()
            assert database.value("SELECT count(*) FROM ops.v_cabinet_recovery_decision WHERE is_due") == 0
            assert {entry for entry, text in before.items() if definitions(url).get(entry) != text} == {
                EFFECTIVE,
                IMPACT,
            }
            with Writers(url, first=1_000_000) as leaving:
                uninstall(Address.parse(url))
            assert definitions(url) == before
            assert database.value(host_version) == "f3a9c1d27b60"
        print(
            f"\n{YEAR_OLD_LEADS} leads: migrated in {migrated - started:.1f} s, {result['processed']} recovered in "
            f"{swept - migrated:.1f} s\nadopting: {told}\nleaving: {leaving.in_words()}"
        )
        assert max(worst, leaving.worst_ms()) < LONGEST_LOCK_MS


@pytest.mark.scale
@pytest.mark.timeout(3600)
def test_no_lock_is_held_for_long_on_a_table_of_millions() -> None:
    """LIVE_LEADS says how many leads it has (5000000)."""
    # A live server writes its log over old files; a new one would fill each with zeros first, and every commit waits.
    memory = {"shared_buffers": "512MB", "maintenance_work_mem": "256MB"}
    with own_server(**memory, max_wal_size="4GB", wal_init_zero="off") as server:
        url = server.url()
        run(url, HOST + OLD_VIEWS)
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(
                "INSERT INTO public.module_ct_cabinet_leads (external_id, lead_created_at) "
                "SELECT 'old-' || n, now() - n % 365 * interval '1 day' FROM generate_series(1, %s) AS n".replace(
                    "%", "%%"
                ).replace("%%s", "%s"),
                [LIVE_LEADS],
            )
            connection.execute("VACUUM ANALYZE")
        with Writers(url) as idle:
            time.sleep(10)  # what the same writes take beside nobody
        with Writers(url, first=1_000_000) as writers:
            started = time.monotonic()
            migrate(Address.parse(url))
            migrated = time.monotonic()
            uninstall(Address.parse(url))
            left = time.monotonic()
        print(
            f"\n{LIVE_LEADS} leads: migrated in {migrated - started:.1f} s, uninstalled in {left - migrated:.1f} s"
            f"\nbeside nobody: {idle.in_words()}\nbeside both: {writers.in_words()}"
        )
        with closing(open_session(Address.parse(url), "test")) as connection:
            assert connection.execute("SELECT to_regclass('ops.cabinet_recovery_outbox')").fetchone() == (None,)
        assert writers.worst_ms() < LONGEST_LOCK_MS
