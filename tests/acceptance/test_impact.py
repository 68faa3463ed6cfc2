"""`consumer impact`: the figures, in every form, beside the view that defines them."""

import csv
import io
import json
import os
import stat
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, LiteralString
from xml.etree import ElementTree as ET

import pytest

from consumer.reports.impact import BUCKETS, REASONS
from db.impact import SET_UP
from tests.database import Database
from tests.days import today
from tests.processes import InThisProcess, refused

HOST_S_DEFINITIONS = """
SELECT
    count(*) AS total_leads,
    count(*) FILTER (WHERE claim_status_bucket = 'unidentified') AS unidentified_count,
    count(*) FILTER (WHERE claim_status_bucket = 'identified_no_origin') AS identified_no_origin_count,
    count(*) FILTER (WHERE impact_bucket IN ('recovered_within_14d_but_no_claim', 'recovered_within_14d_and_claim'))
        AS recovered_within_14d_count,
    count(*) FILTER (WHERE impact_bucket = 'recovered_late') AS recovered_late_count,
    count(*) FILTER (WHERE impact_bucket = 'recovered_within_14d_and_claim') AS recovered_within_14d_and_claim_count,
    count(*) FILTER (WHERE impact_bucket = 'still_unidentified') AS still_unidentified_count,
    count(*) FILTER (WHERE impact_bucket = 'identified_but_missing_origin') AS identified_but_missing_origin_count,
    count(*) FILTER (WHERE claim_status_bucket = 'identified_origin_no_claim') AS identified_origin_no_claim_count
FROM ops.v_cabinet_identity_recovery_impact_14d
"""


def days_ago(days: int) -> datetime:
    return today() + timedelta(hours=9) - timedelta(days=days)


@pytest.fixture
def fleet(database: Database) -> Database:
    """A lead in each bucket, and one for each reason not to be recovered."""
    claimed = database.person()
    recovered = [
        database.lead("in-time", created_at=days_ago(1), matched_to=database.person()),
        database.lead("with-claim", created_at=days_ago(2), matched_to=claimed),
        database.lead("late", created_at=days_ago(40), matched_to=database.person()),
        database.lead("undated", created_at=None, matched_to=database.person()),
    ]
    assert database.sweep().as_job_result()["audit_created"] == len(recovered)
    for person, lead_date in ((claimed, days_ago(2)),):
        database.run(
            "INSERT INTO ops.cabinet_recovery_claim VALUES (%s, %s, 'cabinet', 5, true, 'driver')", person, lead_date
        )
    before, also_claimed = database.person(), database.person()
    for lead, person in (("before", before), ("before-claim", also_claimed)):
        database.link(database.lead(lead, created_at=days_ago(3)), person)
        database.origin(person, source=lead)
    database.run(
        "INSERT INTO ops.cabinet_recovery_claim VALUES (%s, %s, 'cabinet', 1, true, 'd')", also_claimed, days_ago(3)
    )
    by_hand = database.person()
    database.origin(by_hand, tag="migration", decided_by="manual")
    database.lead("by-hand", created_at=days_ago(3), matched_to=by_hand)
    database.lead("unmatched", created_at=days_ago(1))
    database.lead("unmatched-of-old", created_at=days_ago(90))
    database.job("of-no-lead", database.person())
    database.sweep()
    unseen = database.lead("by-hand-and-unseen", created_at=days_ago(3))
    database.link(unseen, by_hand)
    database.run("DELETE FROM ops.cabinet_recovery_outbox WHERE lead_id = %s", unseen)
    scouted = database.person()
    database.origin(scouted, tag="scout_registration")
    database.lead("to-replace", created_at=days_ago(60), matched_to=scouted)
    database.lead("to-do", created_at=days_ago(1), matched_to=database.person())
    return database


def report(call: InThisProcess, database: Database, *arguments: str, options: str = "") -> dict[str, Any]:
    done = call("impact", "--format", "json", *arguments, DATABASE_URL=f"{database.url}{options}")
    assert (done.returncode, done.stderr) == (0, "")
    return dict(json.loads(done.stdout))


def test_the_totals_are_those_of_the_host_s_definitions(call: InThisProcess, fleet: Database) -> None:
    (expected,) = fleet.connection.execute(HOST_S_DEFINITIONS).fetchall()

    found = report(call, fleet)

    assert found["totals"] == expected
    assert found["totals"]["total_leads"] == 12
    assert {one["impact_bucket"]: one["leads"] for one in found["buckets"]} == {
        "still_unidentified": 2,
        "identified_but_missing_origin": 4,
        "identified_origin_no_claim": 1,
        "identified_origin_claim": 1,
        "recovered_within_14d_but_no_claim": 1,
        "recovered_within_14d_and_claim": 1,
        "recovered_late": 2,
    }
    assert sum(one["share"] for one in found["buckets"]) == pytest.approx(1)


def test_the_reasons_say_why_leads_are_not_recovered(call: InThisProcess, fleet: Database) -> None:
    found = report(call, fleet)["top_reasons"]

    assert found == {"no_person_key": 2, "pending": 2, "origin_manual": 2, "unknown_lead": 1}
    assert next(iter(found)) == "no_person_key"
    assert set(found) <= set(REASONS)


def test_the_series_has_each_of_the_last_30_days_the_latest_first(call: InThisProcess, fleet: Database) -> None:
    series = report(call, fleet)["series"]

    assert [day["date"] for day in series] == [f"{days_ago(n).date()}" for n in range(30)]
    kinds = ("leads", "unidentified", "recovered_within_14d", "recovered_late", "claims")
    assert [tuple(day[kind] for kind in kinds) for day in series[:4]] == [
        (0, 0, 0, 0, 0),
        (3, 1, 1, 0, 0),
        (1, 0, 1, 0, 1),
        (4, 0, 0, 0, 1),
    ]


def test_a_period_is_of_lead_dates_with_both_ends(call: InThisProcess, fleet: Database) -> None:
    found = report(call, fleet, "--since", f"{days_ago(3).date()}", "--until", f"{days_ago(2).date()}")

    assert found["totals"]["total_leads"] == 5
    assert [day["date"] for day in found["series"]] == [f"{days_ago(n).date()}" for n in (2, 3)]
    assert "unknown_lead" not in found["top_reasons"], "it has no lead_date"
    assert len(report(call, fleet, "--since", "0001-01-01")["series"]) == 91
    assert report(call, fleet, "--since", "9999-12-31")["totals"]["total_leads"] == 0
    assert len(report(call, fleet, "--until", "9999-12-31")["series"]) == 30


def test_the_times_run_from_the_match_and_from_the_lead(call: InThisProcess, database: Database) -> None:
    day = days_ago(5)
    for number, seconds in enumerate((10, 20, 30, 1000)):
        lead = database.lead(created_at=day, matched_to=database.person())
        database.sweep()
        recovered_at = day.replace(tzinfo=UTC) + timedelta(days=1, seconds=seconds)
        if number == 0:  # by a link of the engine's
            database.run("DELETE FROM ops.identity_matching_jobs WHERE source_id = %s", lead)
            database.run(
                "UPDATE canon.identity_links SET match_rule = 'phone_exact', linked_at = %s WHERE source_pk = %s",
                day.replace(tzinfo=UTC) + timedelta(days=1),
                lead,
            )
            database.run("UPDATE ops.cabinet_lead_recovery_audit SET recovery_method = 'identity_link'")
        database.run(
            "UPDATE ops.cabinet_lead_recovery_audit SET first_recovered_at = %s WHERE lead_id = %s", recovered_at, lead
        )
        database.run(
            "UPDATE ops.identity_matching_jobs SET updated_at = %s WHERE source_id = %s",
            day.replace(tzinfo=UTC) + timedelta(days=1),
            lead,
        )
    # Matched anew since: when it was matched first, nothing tells.
    database.lead("again", created_at=None, matched_to=database.person())
    database.sweep()
    database.run("UPDATE ops.identity_matching_jobs SET updated_at = now() + interval '1 h' WHERE source_id = 'again'")

    found = report(call, database)

    assert found["times"]["match_to_recovery"] == {
        "leads": 4,
        "median_seconds": pytest.approx(25),
        "p90_seconds": pytest.approx(709),
    }
    from_lead = found["times"]["lead_to_recovery"]
    assert from_lead["leads"] == 4
    assert from_lead["median_seconds"] == pytest.approx(86_425)
    assert found["series"][5]["times"] == found["times"]
    assert found["series"][6]["times"]["match_to_recovery"] == {"leads": 0, "median_seconds": None, "p90_seconds": None}


@pytest.mark.parametrize("zone", ["America/Lima"])
def test_no_figure_depends_on_the_session_s_time_zone(
    call: InThisProcess,
    fleet: Database,
    zone: str,
) -> None:
    fleet.run("UPDATE ops.cabinet_recovery_settings SET business_time_zone = %s", zone)
    sessions = [
        report(call, fleet, options=f" options='-c TimeZone={name}'")
        for name in ("UTC", "Asia/Tokyo", "America/Los_Angeles")
    ]
    for one in sessions:
        assert datetime.fromisoformat(one.pop("read_at")).tzinfo

    assert sessions[0] == sessions[1] == sessions[2]
    assert sessions[0]["business_time_zone"] == zone


def test_the_table_has_all_of_it(call: InThisProcess, fleet: Database) -> None:
    shown = call("impact", DATABASE_URL=fleet.url).stdout

    assert [
        word for word in (*BUCKETS, "no_person_key", "from match", "90 % within", "all leads") if word not in shown
    ] == []
    assert "\x1b" not in shown


def test_a_table_without_rows_is_not_shown(call: InThisProcess, database: Database) -> None:
    database.lead(created_at=days_ago(40), matched_to=database.person())
    database.sweep()

    shown = call("impact", DATABASE_URL=database.url).stdout

    assert "recovered_late" in shown
    assert "By lead_date" not in shown
    assert "Why leads are not recovered" not in shown


def test_the_csv_has_a_row_for_each_day(call: InThisProcess, fleet: Database) -> None:
    done = call("impact", "--format", "csv", DATABASE_URL=fleet.url)

    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert len(rows) == 30
    assert rows[2] | {"lead_date": f"{days_ago(2).date()}", "leads": "1", "claims": "1"} == rows[2]
    assert float(rows[2]["lead_to_recovery_median_seconds"]) > 86_400


class TestThePage:
    def test_stands_by_itself_and_has_the_figures(
        self,
        call: InThisProcess,
        fleet: Database,
        tmp_path: Path,
    ) -> None:
        page = tmp_path / "impact.html"

        assert call("impact", "--html", str(page), DATABASE_URL=fleet.url).returncode == 0

        text = page.read_text()
        assert text.startswith("<!doctype html>")
        assert not any(word in text for word in ("http:", "https:", "src=", "<link", "<script", "@import", "url("))
        assert len(text) < 30_000
        for bucket in BUCKETS:
            assert bucket in text
        chart = ET.fromstring(text[text.index("<svg") : text.index("</svg>") + len("</svg>")])
        heights = [float(bar.get("height", "0")) for bar in chart.iter("rect")]
        assert len(heights) == 90
        assert max(heights) > 50

    def test_takes_the_old_one_s_place_in_one_step_for_everybody_to_read(
        self,
        call: InThisProcess,
        database: Database,
        tmp_path: Path,
    ) -> None:
        page = tmp_path / "impact.html"
        page.write_text("the old one")
        with page.open() as reader:
            assert call("impact", "--html", str(page), DATABASE_URL=database.url).returncode == 0
            assert reader.read() == "the old one"
        assert stat.S_IMODE(page.stat().st_mode) == 0o666 & ~umask()
        assert [one.name for one in tmp_path.iterdir()] == ["impact.html"]

    def test_leaves_a_link_a_link_and_a_device_a_device(
        self, call: InThisProcess, database: Database, tmp_path: Path
    ) -> None:
        """As root, `--html /dev/stdout` would otherwise put a file in the place of that, for every other process."""
        page, link, pipe = tmp_path / "page.html", tmp_path / "link.html", tmp_path / "pipe"
        link.symlink_to(page)
        os.mkfifo(pipe)
        reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)  # the page is smaller than what a pipe holds

        for path in (link, pipe):
            assert call("impact", "--html", str(path), DATABASE_URL=database.url).returncode == 0

        assert link.is_symlink()
        assert page.read_text().startswith("<!doctype html>")
        with os.fdopen(reader) as read:
            assert read.read().startswith("<!doctype html>")

    def test_that_cannot_be_written_is_a_usage_error(
        self,
        call: InThisProcess,
        database: Database,
        tmp_path: Path,
    ) -> None:
        nowhere = tmp_path / "nowhere" / "impact.html"

        assert "cannot be written" in refused(call("impact", "--html", str(nowhere), DATABASE_URL=database.url), 2)
        refused(call("impact", "--html", str(tmp_path), DATABASE_URL=database.url), 2)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--since", "yesterday"),
        ("--since", "24/11/2026"),
        ("--since", "2026-02-30"),
        ("--since", "2026-02-02", "--until", "2026-02-01"),
        ("--format", "xml"),
    ],
    ids=" ".join,
)
def test_a_period_or_a_form_that_is_none_is_refused(
    call: InThisProcess,
    database: Database,
    arguments: tuple[str, ...],
) -> None:
    line = refused(call("impact", *arguments, DATABASE_URL=database.url), 2)

    assert "%" not in line


def umask() -> int:
    os.umask(mask := os.umask(0))
    return mask


def test_it_only_reads(database: Database) -> None:
    with database.connection.transaction(force_rollback=True):
        database.connection.execute(SET_UP.text.replace("%", "%%"))
        assert database.value("SHOW transaction_read_only") == "on"


@pytest.mark.scale
@pytest.mark.timeout(3600)
def test_a_million_leads_are_counted(call: InThisProcess, database: Database) -> None:
    """Measures what the view and the whole report cost; run by `make scale`, on an idle machine."""
    leads = 1_000_000
    load_a_million(database)
    for _ in range(2):  # the first one warms up
        started = time.perf_counter()
        database.run("SELECT impact_bucket, count(*) FROM ops.v_cabinet_identity_recovery_impact_14d GROUP BY 1")
        view_seconds = time.perf_counter() - started
    started = time.perf_counter()
    found = report(call, database)
    report_seconds = time.perf_counter() - started

    print(f"\nbuckets of {leads:,} leads by the view {view_seconds:.1f} s; the whole report {report_seconds:.1f} s")
    assert found["totals"]["total_leads"] == leads
    assert date.fromisoformat(found["series"][0]["date"]) >= today().date()


def load_a_million(database: Database) -> None:
    """As if recovered long ago: without an event, and a tenth of them without a person."""
    database.run("SET session_replication_role = replica")
    for statement in MILLION:
        database.connection.execute(statement)
    database.run("RESET session_replication_role")
    database.run("VACUUM ANALYZE")


MILLION: tuple[LiteralString, ...] = (
    (
        "INSERT INTO public.module_ct_cabinet_leads (external_id, lead_created_at) "
        "SELECT CASE WHEN n % 3 > 0 THEN 'ext-' || n END, localtimestamp - n % 365 * interval '1 day' "
        "FROM generate_series(1, 1000000) AS n"
    ),
    (
        "INSERT INTO canon.identity_registry (person_key, confidence_level) "
        "SELECT md5(id::text)::uuid, 'HIGH' FROM public.module_ct_cabinet_leads WHERE id % 10 < 7"
    ),
    (
        "INSERT INTO ops.identity_matching_jobs (source_type, source_id, status, matched_person_key, updated_at) "
        "SELECT 'cabinet', COALESCE(external_id, id::text), CASE WHEN id % 10 < 6 THEN 'matched' ELSE 'pending' END, "
        "CASE WHEN id % 10 < 6 THEN md5(id::text)::uuid END, "
        "LEAST(lead_created_at + id % 700 * interval '1 hour', localtimestamp - interval '1 day') "
        "FROM public.module_ct_cabinet_leads WHERE id % 10 <> 6"
    ),
    (
        "INSERT INTO canon.identity_links (person_key, source_table, source_pk, snapshot_date, match_rule, "
        "match_score, confidence_level) SELECT md5(id::text)::uuid, 'module_ct_cabinet_leads', "
        "COALESCE(external_id, id::text), lead_created_at, 'cabinet_recovery', 95, 'HIGH' "
        "FROM public.module_ct_cabinet_leads WHERE id % 10 < 7"
    ),
    (
        "INSERT INTO canon.identity_origin (person_key, origin_tag, origin_source_id, origin_confidence, "
        "origin_created_at) SELECT md5(id::text)::uuid, 'cabinet_lead', COALESCE(external_id, id::text), 95, "
        "lead_created_at FROM public.module_ct_cabinet_leads WHERE id % 10 < 7"
    ),
    (
        "INSERT INTO ops.cabinet_lead_recovery_audit (lead_id, first_recovered_at, last_recovered_at, "
        "recovered_person_key, recovery_method) SELECT source_id, updated_at + interval '1 second', "
        "updated_at + interval '1 second', matched_person_key, 'matching_job' FROM ops.identity_matching_jobs "
        "WHERE status = 'matched'"
    ),
    (
        "INSERT INTO ops.cabinet_recovery_claim (person_key, lead_date, milestone_trips, milestone_achieved, "
        "driver_id) SELECT md5(id::text)::uuid, lead_created_at::date, 5, true, 'driver' "
        "FROM public.module_ct_cabinet_leads WHERE id % 10 < 4"
    ),
)
