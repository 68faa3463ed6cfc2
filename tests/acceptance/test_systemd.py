"""The units of deploy/systemd under a real systemd."""

import json
import re
import shutil
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from db.connect import Address
from db.embedded import EmbeddedServer
from db.migrate import migrate
from db.roles import Roles, apply
from tests.box import CHECKOUT, Box, Unavailable, Unit, booted, installed, server_for_boxes
from tests.database import Database
from tests.processes import eventually
from tests.servers import TemplateDatabase

pytestmark = pytest.mark.systemd

SOURCE, PROGRAM, SOCKETS = "/usr/src/cabinet-recovery", "/opt/cabinet-recovery", "/run/postgresql"
UNITS = ("cabinet-recovery.service", "cabinet-recovery-sweep.service", "cabinet-recovery-sweep.timer")
SETTINGS_FOLDER = "/etc/cabinet-recovery"
INSTALL = CHECKOUT / "docs" / "install.md"
LOGIN, PASSWORD = "recovery_test", "only for this test"
GRACE_SECONDS = 20
DYNAMIC_UIDS = range(61184, 65520)

# Each takes the place of the program; what hangs is what would hang if the role did.
HANGING = {
    "listener": """
import asyncio, consumer.listener
from consumer.cli import main

async def hang(*_):
    await asyncio.Event().wait()

consumer.listener.LISTEN_SECONDS = 1
consumer.listener.Listener._read = hang
main()
""",
    "sweeper": """
import asyncio
from consumer.cli import main
from consumer.sweeper import Sweeper

sweep = Sweeper._sweep

async def sweep_once(self, handler):
    Sweeper._sweep = hang
    await sweep(self, handler)

async def hang(*_):
    await asyncio.Event().wait()

Sweeper._sweep = sweep_once
main()
""",
}

# What somebody who broke in could do; each answer is what stopped it, or null.
BURGLAR = """
import json, mmap, os, socket
from pathlib import Path

def attempt(what, *arguments, **options):
    try:
        what(*arguments, **options)
    except OSError as error:
        return type(error).__name__

print(json.dumps({
    "uid": os.getuid(),
    "write /etc": attempt(Path("/etc/burglar").touch),
    "write the program": attempt(Path("/opt/cabinet-recovery/burglar").touch),
    "write /var/lib": attempt(Path("/var/lib/burglar").touch),
    "read the settings": attempt(Path("/etc/cabinet-recovery/cabinet-recovery.env").read_text),
    "list /root": attempt(os.listdir, "/root"),
    "list /home": attempt(os.listdir, "/home"),
    "see other processes": [pid for pid in os.listdir("/proc") if pid.isdigit() and int(pid) not in
                            (os.getpid(), os.getppid())],
    "open a raw socket": attempt(socket.socket, socket.AF_INET, socket.SOCK_RAW, 1),
    "open a packet socket": attempt(socket.socket, socket.AF_PACKET, socket.SOCK_RAW),
    "run written memory": attempt(mmap.mmap, -1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC),
    "become root": attempt(os.setuid, 0),
}))
"""


@dataclass(frozen=True)
class Site:
    """A host with systemd, our program and its units, and the database server that it reaches."""

    box: Box
    server: EmbeddedServer
    template: TemplateDatabase
    binds: dict[str, Path]

    @property
    def owner_conninfo(self) -> str:
        """The server as the tests reach it, from outside the box."""
        return make_conninfo(self.server.url(), host=str(self.binds[SOCKETS]))

    def configure(self, url: str | None, **settings: str) -> None:
        """Write the settings file."""
        lines = [f"CABINET_RECOVERY_{name.upper()}={value}" for name, value in settings.items()]
        lines += [] if url is None else [f"DATABASE_URL={url}"]
        self.box.write(f"{SETTINGS_FOLDER}/cabinet-recovery.env", "\n".join([*lines, ""]), mode="600")

    @contextmanager
    def without_server(self) -> Iterator[None]:
        self.server.stop()
        try:
            yield
        finally:
            self.server.start()

    def run_as_owner(self, statement: str) -> None:
        with psycopg.connect(self.owner_conninfo, autocommit=True) as connection:
            connection.execute(statement)  # type: ignore[call-overload] # the tests' own words


def url_inside(database: str, user: str = LOGIN, password: str = PASSWORD) -> str:
    return f"postgresql://{user}:{quote(password)}@/{database}?host={quote(SOCKETS, safe='')}"


def prepare(conninfo: str) -> None:
    migrate(Address.parse(conninfo), tell=lambda _: None)
    apply(Roles(), Address.parse(conninfo))
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {LOGIN} LOGIN PASSWORD '{PASSWORD}' IN ROLE cabinet_recovery_service")


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with ExitStack() as stack:
        try:
            server, sockets = stack.enter_context(server_for_boxes())
            binds = {SOURCE: CHECKOUT, PROGRAM: stack.enter_context(installed()), SOCKETS: sockets}
            box = stack.enter_context(booted(binds))
        except Unavailable as reason:
            pytest.skip(f"no systemd can be booted here: {reason}")
        box.shell(f"cd {SOURCE}/deploy/systemd && install -m 644 {' '.join(UNITS)} /etc/systemd/system/")
        box.run("systemctl", "daemon-reload")
        template = TemplateDatabase(make_conninfo(server.url(), host=str(sockets)), prepare)
        yield Site(box, server, stack.enter_context(template), binds)


@pytest.fixture
def database(site: Site) -> Iterator[Database]:
    conninfo = site.template.fresh()
    with closing(Database(conninfo)) as found:
        yield found
    site.template.drop(conninfo)


@pytest.fixture
def url(database: Database) -> str:
    return url_inside(database.connection.info.dbname)


@pytest.fixture
def daemon(site: Site, url: str) -> Iterator[Unit]:
    site.configure(url)
    unit = Unit(site.box, "cabinet-recovery.service")
    yield unit
    unit.forget()


@pytest.fixture
def sweep(site: Site, url: str) -> Iterator[Unit]:
    site.configure(url)
    unit = Unit(site.box, "cabinet-recovery-sweep.service")
    yield unit
    unit.forget()


@pytest.fixture
def timer(site: Site) -> Iterator[Unit]:
    unit = Unit(site.box, "cabinet-recovery-sweep.timer")
    yield unit
    unit.forget()


def listeners(database: Database) -> int:
    return int(database.value(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN %%'"
    ))  # fmt: skip


def wait_for_recovery(database: Database, lead: str) -> None:
    eventually(lambda: database.audit_of(lead))


class TestStart:
    def test_is_over_only_once_it_listens_and_has_looked_at_what_was_due(
        self, site: Site, daemon: Unit, database: Database
    ) -> None:
        lead = database.lead(matched_to=database.person())
        with site.without_server():
            daemon.systemctl("start", "--no-block")
            daemon.wait_for_journal("database.lost")
            assert daemon.state("ActiveState", "SubState") == ("activating", "start")

        daemon.wait_for(ActiveState="active")

        with closing(Database(database.url)) as again:
            assert listeners(again) == 1
            wait_for_recovery(again, lead)

    @pytest.mark.parametrize(
        ("seconds", "timeout_seconds"),
        [(10, 5), pytest.param(180, 60, marks=[pytest.mark.slow, pytest.mark.timeout(300)])],
    )
    def test_waits_for_a_server_that_is_down_longer_than_a_start_may_take(
        self, site: Site, daemon: Unit, database: Database, seconds: int, timeout_seconds: int
    ) -> None:
        site.configure(url_inside(database.connection.info.dbname), outage_log_interval_seconds="1")
        daemon.change(f"TimeoutStartSec={timeout_seconds}")
        with site.without_server():
            daemon.systemctl("start", "--no-block")
            daemon.wait_for_line(lambda line: tells_of_an_outage(line, seconds), 2 * seconds)
            assert daemon.state("ActiveState", "NRestarts") == ("activating", "0")

        daemon.wait_for(ActiveState="active")

        assert daemon.show("NRestarts") == "0"


def tells_of_an_outage(line: str, seconds: int) -> bool:
    told = json.loads(line) if line.startswith("{") else {}
    return told.get("event") == "database.lost" and told["seconds"] >= seconds


class TestRestart:
    def test_follows_a_kill_within_two_seconds(self, daemon: Unit, database: Database) -> None:
        daemon.systemctl("start")
        seconds = []

        for _ in range(3):
            before = daemon.show("MainPID")
            killed = time.monotonic()
            daemon.systemctl("kill", "--signal=KILL")
            eventually(lambda before=before: daemon.show("MainPID") not in {before, "0"})
            daemon.wait_for(ActiveState="active")
            seconds.append(int(daemon.show("ActiveEnterTimestampMonotonic")) / 1e6 - killed)

        print(f"from SIGKILL to active: median {statistics.median(seconds):.2f} s, worst {max(seconds):.2f} s")
        assert statistics.median(seconds) < 2
        lead = database.lead(matched_to=database.person())
        wait_for_recovery(database, lead)

    def test_follows_where_the_process_is_frozen(self, daemon: Unit, database: Database) -> None:
        daemon.change("WatchdogSec=3")
        daemon.systemctl("start")

        daemon.systemctl("kill", "--signal=STOP")

        daemon.wait_for(NRestarts="1", ActiveState="active")
        assert "Watchdog timeout" in daemon.journal()
        assert "Fatal Python error: Aborted" in daemon.journal()  # and where it stood
        lead = database.lead(matched_to=database.person())
        wait_for_recovery(database, lead)

    @pytest.mark.parametrize("role", HANGING)
    def test_follows_where_one_role_hangs_alone(self, site: Site, daemon: Unit, url: str, role: str) -> None:
        site.configure(url, proof_interval_seconds="1", proof_timeout_seconds="1", sweep_interval_seconds="1")
        site.box.write("/usr/local/lib/hanging.py", HANGING[role])
        daemon.change("WatchdogSec=3", "ExecStart=", f"ExecStart={PROGRAM}/bin/python /usr/local/lib/hanging.py run")
        daemon.systemctl("start")

        daemon.wait_for(NRestarts="1")

        assert "Watchdog timeout" in daemon.journal()
        assert f'"roles": ["{role}"]' in daemon.journal()

    def test_does_not_follow_where_settings_are_wrong(self, site: Site, daemon: Unit) -> None:
        site.configure(None)
        daemon.systemctl("start", "--no-block")

        daemon.wait_for(ActiveState="failed")

        assert daemon.state("ExecMainStatus", "NRestarts") == ("2", "0")
        assert "DATABASE_URL is not set" in daemon.journal()

    def test_does_not_follow_where_the_schema_is_missing(self, site: Site, daemon: Unit) -> None:
        site.configure(url_inside("postgres"))
        daemon.systemctl("start", "--no-block")

        daemon.wait_for(ActiveState="failed")

        assert daemon.state("ExecMainStatus", "NRestarts") == ("3", "0")
        assert "consumer migrate" in daemon.journal()

    def test_follows_a_refused_password_after_a_pause_until_it_is_right(self, site: Site, daemon: Unit) -> None:
        site.run_as_owner(f"ALTER ROLE {LOGIN} PASSWORD 'another'")
        try:
            daemon.systemctl("start", "--no-block")
            daemon.wait_for(SubState="stop-post", ExecMainStatus="4")
            left = int(daemon.show("ExecMainExitTimestampMonotonic")) / 1e6
        finally:
            site.run_as_owner(f"ALTER ROLE {LOGIN} PASSWORD '{PASSWORD}'")

        daemon.wait_for(ActiveState="active")

        assert daemon.show("NRestarts") == "1"
        assert int(daemon.show("ExecMainStartTimestampMonotonic")) / 1e6 - left > 10


class TestStop:
    def test_under_load_ends_well_within_the_grace_and_loses_nothing(self, daemon: Unit, database: Database) -> None:
        leads = [(database.lead(), database.person()) for _ in range(2000)]
        daemon.systemctl("start")

        with matching(database.url, leads) as matched:
            eventually(lambda: len(matched) > 100)
            asked = time.monotonic()
            daemon.systemctl("stop")
            seconds = time.monotonic() - asked

        assert daemon.state("ActiveState", "Result", "ExecMainStatus") == ("inactive", "success", "0")
        print(f"systemctl stop under load: {seconds:.2f} s")
        assert seconds < GRACE_SECONDS
        daemon.systemctl("start")
        eventually(lambda: database.value("SELECT count(*) FROM ops.cabinet_lead_recovery_audit") == len(matched))
        assert database.events() == []

    def test_may_take_the_daemon_longer_than_the_manager_would_wait(self, daemon: Unit, database: Database) -> None:
        database.run("""
            CREATE FUNCTION public.take_time() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                PERFORM pg_sleep(3);
                RETURN new;
            END $$
        """)
        database.run(
            "CREATE TRIGGER slow BEFORE INSERT ON canon.identity_origin FOR EACH ROW EXECUTE FUNCTION take_time()"
        )
        daemon.change("TimeoutStopSec=1")
        daemon.systemctl("start")
        lead = database.lead(matched_to=database.person())
        eventually(lambda: database.run("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"))

        daemon.systemctl("stop")

        assert daemon.state("Result", "ExecMainStatus") == ("success", "0")
        assert database.audit_of(lead)

    def test_while_it_waits_for_the_server_is_no_failure(self, site: Site, daemon: Unit) -> None:
        with site.without_server():
            daemon.systemctl("start", "--no-block")
            daemon.wait_for_journal("database.lost")

            daemon.systemctl("stop")

        assert daemon.state("ActiveState", "Result", "ExecMainStatus") == ("inactive", "success", "0")


@contextmanager
def matching(url: str, leads: list[tuple[str, object]]) -> Iterator[list[str]]:
    """The engine matches lead after lead; yields those that it has committed."""
    matched: list[str] = []
    stopping = threading.Event()

    def match() -> None:
        with closing(Database(url)) as database:
            for lead, person in leads:
                if stopping.is_set():
                    return
                database.job(lead, person)  # type: ignore[arg-type]
                matched.append(lead)

    engine = threading.Thread(target=match)
    engine.start()
    try:
        yield matched
    finally:
        stopping.set()
        engine.join()


class TestConfinement:
    @pytest.mark.parametrize("unit", [unit for unit in UNITS if unit.endswith(".service")])
    def test_is_rated_as_safe(self, site: Site, unit: str) -> None:
        said = site.box.run("systemd-analyze", "security", "--no-pager", unit)

        score = float(re.findall(r"Overall exposure level for \S+: ([\d.]+)", said)[0])
        print(f"systemd-analyze security {unit}: {score}")
        assert score <= 1.5

    def test_verifies_without_a_word(self, site: Site) -> None:
        done = site.box.call("systemd-analyze", "verify", *(f"/etc/systemd/system/{unit}" for unit in UNITS))

        assert (done.returncode, done.stdout + done.stderr) == (0, "")

    def test_leaves_a_burglar_nothing(self, site: Site, sweep: Unit) -> None:
        site.box.write("/usr/local/lib/burglar.py", BURGLAR)
        sweep.change("ExecStart=", f"ExecStart={PROGRAM}/bin/python /usr/local/lib/burglar.py")

        sweep.systemctl("start")

        found = json.loads(next(line for line in sweep.journal().splitlines() if line.startswith("{")))
        assert found.pop("uid") in DYNAMIC_UIDS
        assert found.pop("see other processes") == []
        assert None not in found.values(), found

    def test_holds_for_the_running_daemon(self, site: Site, daemon: Unit) -> None:
        daemon.systemctl("start")

        status = site.box.run("cat", f"/proc/{daemon.show('MainPID')}/status")
        fields = dict(line.split(":\t", 1) for line in status.splitlines())

        assert all(int(uid) in DYNAMIC_UIDS for uid in fields["Uid"].split())
        assert (fields["NoNewPrivs"], fields["Seccomp"]) == ("1", "2")
        assert {fields[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}

    def test_leaves_the_daemon_its_way_to_the_database_by_name_and_tcp(
        self, site: Site, daemon: Unit, database: Database
    ) -> None:
        proxy = ("/lib/systemd/systemd-socket-proxyd", f"{SOCKETS}/.s.PGSQL.5432")
        site.box.run("systemd-run", "--unit=proxy", "systemd-socket-activate", "--listen=127.0.0.1:5432", *proxy)
        try:
            site.configure(f"postgresql://{LOGIN}:{quote(PASSWORD)}@localhost:5432/{database.connection.info.dbname}")

            daemon.systemctl("start")
        finally:
            site.box.run("systemctl", "stop", "proxy")

        assert daemon.show("ActiveState") == "active"


class TestTheAddress:
    def test_may_be_a_credential_that_nobody_else_can_read(
        self, site: Site, daemon: Unit, database: Database, url: str
    ) -> None:
        (drop_in,) = re.findall(r"```ini\n\[Service\]\n(LoadCredential=[^`]+)```", INSTALL.read_text())
        site.configure(None)
        site.box.write(f"{SETTINGS_FOLDER}/database-url", url, mode="600")
        daemon.change(*drop_in.splitlines())
        try:
            daemon.systemctl("start")
            wait_for_recovery(database, database.lead(matched_to=database.person()))
            process = daemon.show("MainPID")
            assert quote(PASSWORD) not in site.box.run("cat", f"/proc/{process}/environ", f"/proc/{process}/cmdline")
            assert quote(PASSWORD) not in daemon.journal()
        finally:
            site.box.run("rm", f"{SETTINGS_FOLDER}/database-url")


class TestOperation:
    def test_reload_rereads_the_log_level(self, site: Site, daemon: Unit, database: Database) -> None:
        daemon.systemctl("start")
        site.box.write(f"{SETTINGS_FOLDER}/log-level", "debug\n")
        try:
            daemon.systemctl("reload")
            daemon.wait_for_journal("log_level.reread")
        finally:
            site.box.run("rm", f"{SETTINGS_FOLDER}/log-level")

        database.run("NOTIFY cabinet_recovery, 'nobody''s'")

        daemon.wait_for_journal("hints.unmatched")  # told at level debug alone
        assert daemon.show("NRestarts") == "0"

    def test_status_says_how_it_goes(self, daemon: Unit, database: Database) -> None:
        daemon.systemctl("start")
        lead = database.lead(matched_to=database.person())
        wait_for_recovery(database, lead)

        eventually(lambda: "1 recovered" in daemon.show("StatusText"))

        assert 'Status: "listening; ' in daemon.systemctl("status", "--no-pager", "--full")

    def test_the_timer_makes_up_for_a_missed_hour(
        self, site: Site, sweep: Unit, timer: Unit, database: Database
    ) -> None:
        lead = database.lead(matched_to=database.person())
        site.box.run("touch", "--date=3 hours ago", "/var/lib/systemd/timers/stamp-cabinet-recovery-sweep.timer")
        timer.change("RandomizedDelaySec=0", "AccuracySec=1ms")

        timer.systemctl("start")

        wait_for_recovery(database, lead)
        sweep.wait_for(ActiveState="inactive", Result="success")
        assert re.search(r"processed +1\b", sweep.journal())
        assert timer.show("NextElapseUSecRealtime")

    def test_a_sweep_that_leaves_leads_behind_says_which_and_what_that_means(
        self, sweep: Unit, database: Database
    ) -> None:
        database.job("nobody's", database.person())

        sweep.systemctl("start", "--no-block")

        sweep.wait_for(ActiveState="failed", ExecMainStatus="5")
        assert "nobody's" in sweep.journal()
        assert "exit status 5: the sweep was done" in sweep.journal()


@dataclass(frozen=True)
class Guide:
    """docs/install.md, followed in a box of its own, command by command as they stand there."""

    box: Box

    def follow(self, heading: str, block: int = 0, stdin: str = "", **environment: str) -> str:
        """Run a block of commands under a heading, in the checkout."""
        text = (CHECKOUT / "docs/install.md").read_text(encoding="utf-8")
        section = text.split(f"\n## {heading}", 1)[1].split("\n## ", 1)[0]
        script = re.findall(r"```console\n(.*?)```", section, re.DOTALL)[block]
        # Only the address differs from site to site.
        script = re.sub(r"\bDATABASE_URL=postgresql://\S+", f"DATABASE_URL={self.owner}", script)
        return self.box.shell(script, folder=SOURCE, stdin=stdin, **environment)

    @property
    def owner(self) -> str:
        return url_inside("guide", "postgres", "")


@pytest.mark.skipif(shutil.which("psql") is None, reason="psql is not installed")
def test_the_guide_leads_from_nothing_to_a_service_and_back(site: Site) -> None:
    settings = f"{SETTINGS_FOLDER}/cabinet-recovery.env"
    site.run_as_owner("CREATE DATABASE guide")
    with booted(site.binds) as box:
        guide = Guide(box)
        guide.follow("The schema and the role")
        guide.follow("The schema and the role", 1, f"{PASSWORD}\n{PASSWORD}\n", DATABASE_URL=guide.owner)
        guide.follow("The settings", EDITOR="true")
        assert box.run("stat", "--format=%A %U", settings) == "-rw------- root\n"
        box.write(settings, f"DATABASE_URL={url_inside('guide', 'recovery_login')}\n", mode="600")
        guide.follow("The daemon")
        assert "active (running)" in guide.follow("The daemon", 1, SYSTEMD_PAGER="")
        guide.follow("Or the hourly job")
        guide.follow("Or the hourly job", 1)
        guide.follow("Change the log level")
        box.run("umount", "--lazy", PROGRAM)  # or else it could not be removed
        guide.follow("Uninstall")
        assert box.call("systemctl", "cat", "cabinet-recovery").returncode == 1
