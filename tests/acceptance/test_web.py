"""`consumer web`: what it answers, whom it refuses, and how it lives with a server that goes away."""

import json
import re
import socket
import statistics
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime, timedelta
from pathlib import Path
from string import Formatter
from typing import LiteralString, NamedTuple

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from consumer.commands import web as web_command
from consumer.web import texts
from consumer.web.live import STREAMS
from consumer.web.texts import choose_language, texts_in
from db.board import COUNTED, look
from db.connect import Address
from db.engine import open_reader
from db.migrate import migrate
from tests.acceptance.test_impact import HOST_S_DEFINITIONS, fleet, load_a_million  # noqa: F401 # a fixture
from tests.database import Database
from tests.logins import Login
from tests.processes import Daemon, InThisProcess, eventually, own_server, refused, run_command
from tests.site import IMPACT, Site
from tests.traffic import QUIET, matched_one_by_one, matched_until_worked


@pytest.fixture
def reader(database: Database, login: Login) -> str:
    """The database for somebody who may read the views, and nothing else."""
    return make_conninfo(database.owner_url, options=f"-c role={login.roles.reader}")


@pytest.fixture
def site(reader: str) -> Iterator[Site]:
    with Site(reader) as found:
        yield found.wait_until_read()


class TestTheFigures:
    def test_are_the_host_s_definitions_of_them(self, fleet: Database, reader: str) -> None:  # noqa: F811
        (expected,) = fleet.run(HOST_S_DEFINITIONS)
        reported = json.loads(run_command("impact", "--format", "json", url=fleet.url).stdout)

        with Site(reader) as site:
            found = site.wait_until_read().ask(f"{IMPACT}?include_series=true").json

        assert found["totals"] == expected
        assert found["totals"]["recovered_late_count"] > 0
        assert found["top_reasons"] == reported["top_reasons"] != {}
        series = reported["series"][::-1]
        assert len(found["series"]) == 30
        for day, reported_day in zip(found["series"], series, strict=True):
            assert day == {name: reported_day[name] for name in day}
        assert sum(day["claims"] for day in found["series"]) > 0

    def test_have_a_series_only_where_it_is_asked_for(self, site: Site) -> None:
        assert site.ask(IMPACT).json["series"] == []
        for query in ("?include_series=yes", "?x=1", "?include_series=true&include_series=true"):
            assert site.ask(IMPACT + query).status == 400

    def test_reach_an_open_page_within_two_seconds_of_a_match(self, database: Database, site: Site) -> None:
        """Each is told of; the seconds are those of the middle one, for other tests have this machine as well."""
        with Daemon(database.url, **QUIET) as daemon, site.stream() as stream:
            daemon.wait_until_ready()
            known = len(matched_until_worked(database, daemon))
            stream.wait_for("event: figures", f"{known}</td>")
            seconds = []
            for number in range(5):
                matched_one_by_one(database, f"live-{number}", 1)
                # Two parts of the page, each told of by itself.
                seconds.append(stream.wait_for(f"live-{number}", f"{known + number + 1}</td>"))
        assert statistics.median(seconds) < 2

    def test_of_a_backlog_end_where_counting_it_would_cost(self, database: Database, site: Site) -> None:
        database.run(
            "INSERT INTO ops.cabinet_recovery_outbox (lead_id, source) "
            "SELECT 'waits-' || n, 'operator' FROM generate_series(1, %s) AS n", COUNTED + 1
        )  # fmt: skip
        eventually(lambda: "≥\N{NO-BREAK SPACE}1,000</strong> leads" in site.ask("/").text)


class TestTheStory:
    def test_is_told_of_any_lead(self, database: Database, site: Site) -> None:
        person = database.person()
        lead = database.lead("any/lead?&<b>", matched_to=person)
        database.sweep()

        answer = site.ask("/lead?id=any%2Flead%3F%26%3Cb%3E")

        assert answer.status == 200
        assert str(person) in answer.text
        assert "the claim comes" in answer.text.lower()
        assert "<b>" not in answer.text
        assert lead == "any/lead?&<b>"
        spanish = site.ask("/lead?id=any%2Flead%3F%26%3Cb%3E", accept_language="es-PE,es;q=0.9").text
        assert "El claim llega" in spanish

    @pytest.mark.parametrize("language", ["en", "es"])
    def test_is_headed_as_every_table_and_counts_one_attempt_as_well(
        self, database: Database, site: Site, language: str
    ) -> None:
        lead = database.lead(matched_to=database.person())
        database.run("UPDATE ops.identity_matching_jobs SET attempt_count = 1")

        page = site.ask(f"/lead?id={lead}", accept_language=language).text

        heads = re.findall(r'<th scope="col">(.*?)</th>', page)
        assert len(heads) == 3
        assert heads == [head.lower() for head in heads]
        assert re.search(r"(attempts|intentos): 1\b", page)
        assert not re.search(r"\b1 (attempts|intentos)", page)

    @pytest.mark.parametrize(("lead_id", "status"), [("nobody", 404), ("", 400), ("%00", 400), ("x" * 201, 400)])
    def test_of_a_lead_that_there_is_not_says_so(self, site: Site, lead_id: str, status: int) -> None:
        assert site.ask(f"/lead?id={lead_id}").status == status

    def test_has_nothing_personal(self, database: Database, site: Site) -> None:
        lead = database.lead(matched_to=(person := database.person()))
        database.origin(person, tag="migration")
        database.run("UPDATE public.module_ct_cabinet_leads SET first_name = 'Personal1', park_phone = 'Personal2'")
        database.run("UPDATE canon.identity_registry SET primary_phone = 'Personal3'")
        database.run("UPDATE canon.identity_origin SET notes = 'Personal4', origin_tag = 'scout_registration'")
        database.run("UPDATE canon.identity_origin_history SET changed_by = 'Personal5', change_reason = 'Personal6'")
        database.run(
            "INSERT INTO ops.cabinet_recovery_exception (lead_id, outcome, sqlstate, message, parked_at) "
            "VALUES (%s, 'failed', '23514', 'row has Personal7', now())",
            lead,
        )
        eventually(lambda: "23514" in site.ask("/").text)

        pages = site.ask("/").text + site.ask(f"/lead?id={lead}").text

        assert "23514" in pages
        assert "scout_registration" in pages
        assert "Personal" not in pages + site.log


class TestTheGuard:
    def test_speaks_to_browsers_as_strictly_as_they_understand(self, site: Site) -> None:
        for path in ("/", "/lead?id=x", IMPACT, "/static/page.js", "/static/none", "/none", "/openapi.json"):
            headers = site.ask(path).headers
            assert "unsafe" not in headers["content-security-policy"]
            assert "frame-ancestors 'none'" in headers["content-security-policy"]
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["referrer-policy"] == "no-referrer"
            assert not {"set-cookie", "server"} & set(headers)

    @pytest.mark.parametrize(
        "host", ["evil.example", "127.0.0.1.evil.example", "evil.example:80", "localhost@evil", ""]
    )
    def test_serves_no_host_but_those_that_were_named(self, site: Site, host: str) -> None:
        assert site.ask(host=host).status == 400

    def test_serves_a_host_that_was_named(self, reader: str) -> None:
        with Site(reader, "--allowed-host", "fleet.example.com") as site:
            assert site.ask("/static/page.css", host="Fleet.example.com:443").status == 200
            assert site.ask("/static/page.css", host="[::1]:8080").status == 200
            assert site.ask("/static/page.css", host="other.example.com").status == 400

    def test_answers_nothing_but_get(self, site: Site) -> None:
        for method in ("POST", "PUT", "DELETE", "OPTIONS", "TRACE"):
            assert site.ask(method=method).status == 405
        assert site.ask(f"/lead?id={'x' * 3000}").status == 414
        assert site.ask(content_length="5").status == 413
        assert site.ask(x="y" * 17_000).status == 431
        assert site.ask("/static/../app.py").status == 404

    def test_bounds_the_streams_and_counts_those_that_ended(self, site: Site) -> None:
        with ExitStack() as opened:
            for _ in range(STREAMS):
                opened.enter_context(site.stream()).wait_for("event:")
            assert site.ask("/live").status == 503
            assert site.ask("/").status == 200
        eventually(lambda: _is_open(site))


@pytest.mark.scale
@pytest.mark.timeout(1200)
def test_a_million_leads_cost_as_much_for_fifty_visitors_as_for_none(database: Database, reader: str) -> None:
    """Measures what the page costs and how soon it answers; run by `make scale`, on an idle machine."""
    load_a_million(database)
    with Site(reader) as site:
        first = _seconds(lambda: site.ask("/"))
        waited = _seconds(lambda: eventually(lambda: site.ask(IMPACT).status == 200, seconds=300))
        alone = _work_within(database, 60)
        with ExitStack() as visitors:
            for _ in range(50):
                visitors.enter_context(site.stream()).wait_for("event: figures")
            crowded = _work_within(database, 60)
        median = {path: statistics.median(_seconds(lambda at=path: site.ask(at)) for _ in range(20)) for path in ASKED}
        with Daemon(database.url) as daemon, site.stream() as stream:
            daemon.wait_for("service.ready")
            stream.wait_for("event: figures")
            database.lead("seen", matched_to=database.person())
            seen = stream.wait_for("lead?id=seen")
        database.run(BACKLOG)
        with open_reader(Address.parse(reader), "test", 1) as engine:
            looked = statistics.median(_seconds(lambda: look(engine)) for _ in range(5))

    print(
        f"\nfirst page after {first:.2f} s, with figures {waited:.1f} s later; a minute: {alone}; for fifty: {crowded}"
    )
    print(f"a match is seen after {seen:.2f} s; a look at a backlog of 500,000: {looked:.3f} s; then {median}")
    assert crowded.transactions <= alone.transactions + 20
    assert max(median.values()) < 0.2
    assert seen < 2
    assert looked < 0.1


ASKED = ("/", IMPACT, f"{IMPACT}?include_series=true", "/lead?id=ext-500000")
BACKLOG: LiteralString = """
INSERT INTO ops.cabinet_recovery_outbox (lead_id, source)
SELECT COALESCE(external_id, id::text), 'matching_job' FROM public.module_ct_cabinet_leads LIMIT 500000
"""


class Work(NamedTuple):
    """What the server did for all of a database's sessions."""

    transactions: int
    busy_seconds: float

    def __str__(self) -> str:
        return f"{self.transactions} transactions and {self.busy_seconds:.1f} s of work"


def _work_within(database: Database, seconds: float) -> Work:
    """The server tells of a session's work with a delay of up to ten seconds, which two such looks have in common."""
    before = _work(database)
    time.sleep(seconds)
    after = _work(database)
    return Work(after.transactions - before.transactions, after.busy_seconds - before.busy_seconds)


def _work(database: Database) -> Work:
    (row,) = database.run(
        "SELECT xact_commit + xact_rollback AS done, active_time / 1000 AS seconds FROM pg_stat_database "
        "WHERE datname = current_database()"
    )
    return Work(row["done"], row["seconds"])


def _seconds(done: Callable[[], object]) -> float:
    started = time.monotonic()
    done()
    return time.monotonic() - started


def _is_open(site: Site) -> bool:
    with site.stream() as stream:
        return stream.answer.status == 200


class TestTheProcess:
    def test_ends_when_asked_to_whoever_still_looks(self, site: Site) -> None:
        with site.stream() as stream:
            stream.wait_for("event: figures")
            assert site.stop(timeout=5) == 0
        assert site.plain_lines == []

    def test_lives_through_an_outage_and_says_since_when(self) -> None:
        with own_server() as server:
            with psycopg.connect(server.url(), autocommit=True) as connection:
                connection.execute("CREATE DATABASE fleet")
            url = server.url("fleet")
            migrate(Address.parse(url))
            with Site(url) as site:
                site.wait_until_read()
                with site.stream() as stream:
                    server.stop()
                    stream.wait_for("does not answer since")
                assert site.ask("/health").status == 503
                assert site.ask(IMPACT).json["is_old"] is True
                assert site.ask("/lead?id=x").status == 503
                server.start()
                eventually(lambda: site.ask("/health").status == 200)
                assert "does not answer since" not in site.ask("/").text
                assert site.ask(IMPACT).json["is_old"] is False
                site.wait_for("database.regained")

    def test_waits_for_a_database_that_is_away_and_leaves_one_that_will_never_do(self, server_url: str) -> None:
        with Site("postgresql://nobody@127.0.0.1:1/none") as site:
            site.wait_for("database.lost")
            assert "has not answered yet" in site.ask("/").text
            assert site.ask(IMPACT).status == 503
            assert site.stop() == 0
        with Site(make_conninfo(server_url, dbname="postgres")) as site:
            assert site.end() == 3
            assert "consumer migrate" in site.plain_lines[-1]
            assert len(site.plain_lines) == 1

    def test_is_reached_by_others_only_behind_a_proxy(self, call: InThisProcess) -> None:
        for host in ("0.0.0.0", "::", "192.0.2.1", "fleet.example.com"):
            assert "--behind-proxy" in refused(call("web", "--host", host, DATABASE_URL="postgresql://x/"), 2)

    def test_says_what_to_install(self, call: InThisProcess, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(web_command, "EXTRA", ("no_such_package_here",))
        assert "pip install 'cabinet-recovery[web]'" in refused(call("web"), 2)

    def test_says_that_somebody_else_has_its_port(self, call: InThisProcess) -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = str(other.getsockname()[1])
            assert "in use" in refused(call("web", "--port", port, DATABASE_URL="postgresql://127.0.0.1:1/"), 2)


class TestTheWords:
    def test_are_the_same_in_every_language(self) -> None:
        folder = Path(texts.__file__).parent / "catalogues"
        catalogues = [tomllib.loads((folder / f"{language}.toml").read_text()) for language in texts.LANGUAGES]
        assert sorted(path.stem for path in folder.glob("*.toml")) == sorted(texts.LANGUAGES)
        first, second = ({key: _names(value) for key, value in one.items()} for one in catalogues)
        assert first == second

    @pytest.mark.parametrize(
        ("accepted", "language"),
        [
            *(("", "en"), ("es", "es"), ("es-419,en;q=0.5", "es"), ("en,es", "en"), ("de,es;q=0.1", "es")),
            *(("es;q=0,en", "en"), ("*", "en"), ("es;q=x", "en"), (";;;,,q=", "en"), ("ES-pe", "es")),
        ],
    )
    def test_are_in_the_browser_s_language(self, accepted: str, language: str) -> None:
        assert choose_language(accepted) == language

    def test_of_a_time_have_its_unit(self) -> None:
        english, spanish = texts_in("en"), texts_in("es")
        told = [english.duration(seconds) for seconds in (0.004, 0.9994, 1.25, 119, 120, 7200, 172_800, None)]
        assert told == ["4 ms", "999 ms", "1.2 s", "119 s", "2.0 min", "2.0 h", "2.0 days", "\N{EN DASH}"]
        assert spanish.number(1_234_567.5, 1) == "1,234,567.5"
        summer = texts.zone_of("America/New_York")
        at = datetime.fromisoformat("2026-07-01T00:30:15+00:00")
        assert spanish.moment(at, summer) == "30\xa0jun\xa02026, 20:30:15"
        assert (
            english.moment(at - timedelta(minutes=30, seconds=15), texts.zone_of("Mars/Base"))
            == "1\xa0Jul\xa02026, 00:00"
        )


def _names(value: object) -> object:
    return (
        len(value)
        if isinstance(value, list)
        else sorted(name for _, name, _, _ in Formatter().parse(str(value)) if name)
    )


@pytest.mark.slow
def test_the_description_of_the_api_is_true(site: Site, tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *(Path(sys.executable).with_name("schemathesis"), "run", f"{site.address}openapi.json"),
            *("--checks", "all", "--max-examples", "40", "--request-timeout", "30"),
            *("--no-color", "--generation-database", "none"),
        ],
        check=False,
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"[1-9][0-9]+ generated", done.stdout)
