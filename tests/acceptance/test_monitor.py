"""What the daemon shows to those who watch it, and that watching it never harms it."""

import asyncio
import shutil
import socket
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import psycopg
import pytest

from consumer.errors import SettingsError
from consumer.monitoring.monitor import Monitor
from consumer.outage import Outage
from consumer.proof import Proof
from consumer.role import Place, Role
from consumer.settings import Settings
from consumer.systemd import ServiceManager
from consumer.watchdog import Watchdog
from db.connect import Address, Connection
from db.migrate import migrate
from tests.database import Database
from tests.processes import Daemon, eventually, own_server
from tests.scraping import Scraper
from tests.servers import TemplateDatabase
from tests.traffic import QUIET, match, matched_one_by_one, matched_until_worked, unmatched_leads

SERVED = {**QUIET, "metrics_address": ":0", "metrics_interval_seconds": "1"}


def test_the_metrics_tell_what_became_of_leads_and_how_soon(database: Database) -> None:
    started = time.monotonic()
    with Daemon(database.url, **SERVED) as daemon:
        scraper = Scraper(daemon)
        daemon.wait_for("service.ready")
        daemon.wait_for_leads(matched_one_by_one(database, "any", 3))
        scraper.wait_until(**{'leads_total{outcome="recovered"}': 3, "pending_leads": 0, "listener_up": 1})
        samples = scraper.samples()
        assert daemon.stop() == 0

    assert samples['leads_total{outcome="failed"}'] == 0
    assert samples["lag_seconds_count"] == samples['lag_seconds_bucket{le="+Inf"}'] == 3
    assert 0 < samples["lag_seconds_sum"] < 3 * (time.monotonic() - started)
    assert 1 <= samples["batch_seconds_count"] <= 3
    assert samples["listener_up"] == samples["triggers_enabled"] == samples['build_info{version="0.1.0"}'] == 1
    assert 0 <= samples["listener_proof_age_seconds"] < time.monotonic() - started
    assert 0 <= samples["sweep_age_seconds"] < time.monotonic() - started
    assert samples['reconnects_total{role="worker"}'] == 0


def test_what_a_sweep_finds_by_state_has_no_lag(database: Database) -> None:
    database.lead(matched_to=database.person())
    database.run("DELETE FROM ops.cabinet_recovery_outbox")

    with Daemon(database.url, **SERVED) as daemon:
        scraper = Scraper(daemon)
        scraper.wait_until(**{'leads_total{outcome="recovered"}': 1})

        assert scraper.samples()["lag_seconds_count"] == 0


def test_promtool_finds_nothing_wrong_with_the_metrics(database: Database) -> None:
    if not shutil.which("promtool"):
        pytest.skip("promtool is not installed (Debian: prometheus)")
    with Daemon(database.url, **SERVED) as daemon:
        scraper = Scraper(daemon)
        scraper.wait_until(pending_leads=0)
        page = scraper.get("/metrics")

    done = subprocess.run(
        ["promtool", "check", "metrics"], input=page.body, check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert page.content_type.startswith("text/plain; version=0.0.4")


def test_the_queue_s_figures_follow_the_database(database: Database) -> None:
    with Daemon(database.url, **SERVED) as daemon, psycopg.connect(database.owner_url) as holder:
        scraper = Scraper(daemon)
        daemon.wait_for("service.ready")
        held = unmatched_leads(database, "held", 1)
        database.origin(database.value("SELECT md5('held-0')::uuid"), tag="migration")
        holder.execute("SELECT FROM canon.identity_origin FOR UPDATE")
        match(database, held)
        scraper.wait_until(pending_leads=1)
        assert scraper.samples()["oldest_pending_seconds"] > 0
        holder.rollback()
        scraper.wait_until(pending_leads=0, oldest_pending_seconds=0)
        database.run("ALTER TABLE canon.identity_links DISABLE TRIGGER cabinet_recovery_link_updated")
        scraper.wait_until(triggers_enabled=0)


def test_while_the_database_is_away_no_figure_of_it_is_told_and_it_is_alive_but_not_ready() -> None:
    with own_server() as server:
        migrate(Address.parse(server.url()))
        with Daemon(server.url(), **SERVED) as daemon:
            scraper = Scraper(daemon)
            scraper.wait_until(listener_up=1, pending_leads=0)
            daemon.wait_for("service.ready")
            assert scraper.get("/readyz").status == 200
            with closing(Database(server.url())) as database:
                matched_until_worked(database, daemon)  # each role connects by itself, the worker perhaps last
            server.stop()
            scraper.wait_until(
                listener_up=0, pending_leads=None, oldest_pending_seconds=None, parked_leads=None,
                windows_closing_leads=None, triggers_enabled=None, notify_queue_ratio=None,
            )  # fmt: skip
            away = scraper.get("/readyz")
            assert away.status == 503
            assert away.body.startswith("failed: listener is proved to hear what is sent")
            assert scraper.get("/livez").status == 200
            server.start()
            scraper.wait_until(listener_up=1, pending_leads=0)
            assert scraper.get("/readyz").status == 200
            eventually(lambda: min(reconnects(scraper)) >= 1)
            assert daemon.stop() == 0


def reconnects(scraper: Scraper) -> list[float]:
    samples = scraper.samples()
    roles = ("listener", "worker", "sweeper", "prober", "surveyor")
    return [samples[f'reconnects_total{{role="{role}"}}'] for role in roles]


class TestTheEndpoint:
    def test_is_not_there_unless_asked_for(self, database: Database) -> None:
        with Daemon(database.url, **QUIET) as daemon:
            daemon.wait_for("listener.proved")

            assert listening_sockets(daemon.process.pid) == 0

    @pytest.mark.parametrize(
        "address", ["9464", "localhost", "host:", ":65536", ":-1", "[::1", "::1:80", "a b:80", "http://x:80"]
    )
    def test_at_an_address_that_is_none_is_refused(self, address: str) -> None:
        with pytest.raises(SettingsError, match="CABINET_RECOVERY_METRICS_ADDRESS takes host:port, or :port on"):
            Settings.from_environment({"DATABASE_URL": "dbname=any", "CABINET_RECOVERY_METRICS_ADDRESS": address})

    @pytest.mark.parametrize("host", ["127.0.0.1", "192.0.2.1", "no-such-host.invalid"])
    def test_that_cannot_be_had_ends_it_with_2_before_anything_starts(self, host: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            address = f"{host}:{other.getsockname()[1]}"
            with Daemon("host=127.0.0.1 port=1", metrics_address=address) as daemon:
                assert daemon.end() == 2

        (line,) = daemon.plain_lines
        assert line.startswith(f"consumer: CABINET_RECOVERY_METRICS_ADDRESS: {address} cannot be served: ")
        assert daemon.events("database.lost") == []

    def test_is_on_loopback_unless_told_otherwise_and_answers_on_any_family(self, database: Database) -> None:
        with (
            Daemon(database.url, **SERVED) as daemon,
            Daemon(database.url, **{**SERVED, "metrics_address": "[::1]:0"}) as other,
        ):
            assert daemon.wait_for("metrics.served")["host"] == "127.0.0.1"
            assert other.wait_for("metrics.served")["host"] == "::1"
            address = ("::1", other.events("metrics.served")[0]["port"])
            with socket.create_connection(address, timeout=10) as client:
                client.sendall(b"GET /livez HTTP/1.0\r\n\r\n")
                assert client.makefile().readline() == "HTTP/1.1 200 OK\n"

    def test_answers_what_it_does_not_serve_in_the_words_of_http(self, served: Scraper) -> None:
        assert served.get("/nothing").status == 404
        assert served.get("/metrics", method="POST").status == 405
        assert served.get("/livez?verbose=1").status == 200
        head = served.get("/metrics", method="HEAD")
        assert (head.status, head.body) == (200, "")

    @pytest.mark.parametrize(
        ("request_", "status"),
        [
            (b"GET / HTTP/1.1\r\nX: " + b"x" * 20_000, 431),
            (b"nonsense\r\n\r\n", 400),
            (b"GET /metrics HTTP/2\r\n\r\n", 400),
            (b"\x16\x03\x01\x02\x00\x01\xff\r\n\r\n", 400),
            (b"GET /metr\xff\xfe HTTP/1.1\r\n\r\n", 404),
        ],
    )
    def test_refuses_what_is_no_request(self, served: Scraper, request_: bytes, status: int) -> None:
        with socket.create_connection(("127.0.0.1", served.port), timeout=10) as client:
            client.sendall(request_)
            assert client.makefile("rb").readline().split()[1] == str(status).encode()


@pytest.fixture(scope="module")
def served(template: TemplateDatabase) -> Iterator[Scraper]:
    url = template.fresh()
    with Daemon(url, **SERVED) as daemon:
        yield Scraper(daemon)
    template.drop(url)


def listening_sockets(pid: int) -> int:
    ours = {str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()}
    rows = [row.split() for name in ("tcp", "tcp6") for row in Path(f"/proc/{pid}/net/{name}").read_text().splitlines()]
    return sum(1 for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in ours)


def test_neither_a_flood_nor_those_who_never_finish_keep_leads_from_being_recovered(database: Database) -> None:
    with Daemon(database.url, **SERVED) as daemon, ExitStack() as open_:
        scraper = Scraper(daemon)
        daemon.wait_for("service.ready")
        before = matched_until_worked(database, daemon)
        lorises = [open_.enter_context(socket.create_connection(("127.0.0.1", scraper.port), 10)) for _ in range(40)]
        for loris in lorises:
            loris.sendall(b"GET /metrics HT")
        with flood(scraper.port):
            leads = matched_one_by_one(database, "flooded", 20)
            daemon.wait_for_leads(leads)
            assert len(daemon.events("listener.listening")) == 1
        assert scraper.get("/livez").status == 200
        assert lorises[0].recv(1) == b""  # within its five seconds, nobody answers it
        assert daemon.events("database.lost") == daemon.events("role.overdue") == []
        samples = scraper.samples()
        assert daemon.stop() == 0

    assert samples["lag_seconds_count"] == len(before + leads)
    lags_ms = [told["lag_ms"] for told in daemon.events("lead.recovered") if told["lead_id"] in leads]
    assert statistics.median(lags_ms) < 1000


@contextmanager
def flood(port: int) -> Iterator[None]:
    """Connections as fast as they can be made, each asking for the metrics and never reading them."""
    done = threading.Event()

    def run() -> None:
        while not done.is_set():
            with socket.socket() as client:
                client.settimeout(0)
                try:
                    client.connect(("127.0.0.1", port))
                except BlockingIOError:
                    continue
                except OSError:
                    return
                client.send(b"GET /metrics HTTP/1.1\r\n\r\n")

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        done.set()
        for thread in threads:
            thread.join()


def test_a_role_without_a_sign_of_life_is_named_by_livez(database: Database) -> None:
    async def look() -> tuple[int, str]:
        async def use(connection: Connection, progress: Callable[[], None]) -> None: ...

        settings = database.settings(metrics_address=":0")
        place = Place(settings.database, 1)
        roles = [Role(name, use, place, Outage()) for name in ("listener", "worker", "sweeper", "prober")]
        roles[1].heartbeat.expect(-60)
        proof = Proof(10, 5, on_change=lambda: None)
        watchdog = Watchdog(ServiceManager({}), roles, lambda: "")
        page = Monitor(settings, roles, proof, watchdog).pages["/livez"]()
        return page.status, page.body.decode()

    status, body = asyncio.run(look())
    assert status == 503
    assert "failed: worker gives its signs of life\n" in body
    assert body.count("ok: ") == 3


def test_a_survey_that_is_refused_is_told_of_once_and_harms_nobody(database: Database) -> None:
    with Daemon(database.url, **SERVED) as daemon, psycopg.connect(database.owner_url) as holder:
        scraper = Scraper(daemon)
        scraper.wait_until(pending_leads=0)
        holder.execute("LOCK TABLE ops.cabinet_recovery_exception IN ACCESS EXCLUSIVE MODE")
        assert "lock timeout" in daemon.wait_for("survey.failed")["reason"]
        scraper.wait_until(pending_leads=None)
        assert len(daemon.events("survey.failed")) == 1
        holder.rollback()
        daemon.wait_for_leads(matched_one_by_one(database, "after", 1))
        scraper.wait_until(pending_leads=0, **{'reconnects_total{role="surveyor"}': 0})
        assert daemon.events("database.lost") == []
        assert daemon.stop() == 0


def test_a_survey_that_loses_its_connection_takes_another_and_the_daemon_is_not_degraded(database: Database) -> None:
    with Daemon(database.url, **SERVED) as daemon:
        scraper = Scraper(daemon)
        scraper.wait_until(pending_leads=0)
        eventually(lambda: scraper.get("/readyz").status == 200)
        database.run(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name = 'cabinet-recovery surveyor' AND datname = current_database()"
        )
        scraper.wait_until(**{'reconnects_total{role="surveyor"}': 1, "pending_leads": 0})

        assert scraper.get("/readyz").status == 200
        assert {one["role"] for one in daemon.events("database.lost")} == {"surveyor"}
        assert daemon.stop() == 0
