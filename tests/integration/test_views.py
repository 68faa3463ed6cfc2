"""The impact view, whose joins can be planned on all cores, says what a look at each lead for itself says."""

from pathlib import Path
from typing import Any, LiteralString

import psycopg
import pytest

from tests.database import Database

FROZEN = Path(__file__).parents[2] / "migrations" / "sql"
# As they were written for look-ups by key: one subquery after the other.
WORD_BY_WORD = {
    "v_cabinet_recovery_identity": "0006_v_cabinet_recovery_identity",
    "v_cabinet_identity_recovery_impact_14d": "0004_v_cabinet_identity_recovery_impact_14d",
}
COUNT_BUCKETS: LiteralString = (
    "SELECT impact_bucket, count(*) FROM ops.v_cabinet_identity_recovery_impact_14d GROUP BY 1"
)
# The rows that only one of the two has, or has more often.
DIFFERENCE: LiteralString = """
(TABLE ops.v_cabinet_identity_recovery_impact_14d EXCEPT ALL TABLE word_by_word.v_cabinet_identity_recovery_impact_14d)
UNION ALL
(TABLE word_by_word.v_cabinet_identity_recovery_impact_14d EXCEPT ALL TABLE ops.v_cabinet_identity_recovery_impact_14d)
"""

# Few persons and few dates, so that all meet. A third of the leads has a number for external id, which mostly is that
# of a lead without one: 401 is prime, so no two have the same.
LOAD: tuple[LiteralString, ...] = (
    "SELECT setseed(0.14)",
    """
    INSERT INTO public.module_ct_cabinet_leads (id, external_id, lead_created_at)
    SELECT
        n,
        CASE mod(n, 3) WHEN 0 THEN mod(n * 199, 401)::text WHEN 1 THEN CASE WHEN mod(n, 2) = 0 THEN 'ext-' || n END END,
        (ARRAY[
            NULL, '2026-03-01 00:00', '2026-03-01 23:59:59.999999', '2026-03-02 04:59', '2026-03-02 05:00',
            '4713-01-01 BC', '294276-12-01', 'infinity', '-infinity'
        ])[1 + floor(9 * random())::integer]::timestamp
    FROM generate_series(1, 400) AS n
    UNION ALL VALUES (1000, '1000', timestamp '2026-03-01'), (1001, '', '2026-03-01'), (1002, ' 2', '2026-03-01')
    """,
    """
    INSERT INTO canon.identity_registry (person_key, confidence_level)
    SELECT md5(n::text)::uuid, 'LOW' FROM generate_series(1, 120) AS n WHERE mod(n, 4) <> 0
    """,
    """
    INSERT INTO canon.identity_links (
        person_key, source_table, source_pk, snapshot_date, match_rule, match_score, confidence_level
    )
    SELECT
        md5((1 + floor(120 * random()))::integer::text)::uuid, source_table, lead_id, now(), 'any', 1, 'LOW'
    FROM (
        SELECT COALESCE(external_id, id::text) AS lead_id FROM public.module_ct_cabinet_leads
        UNION SELECT id::text FROM public.module_ct_cabinet_leads
    ) AS lead
    CROSS JOIN (VALUES ('module_ct_cabinet_leads'), ('module_ct_scouting')) AS source (source_table)
    WHERE random() < 0.6
    """,
    """
    INSERT INTO ops.identity_matching_jobs (source_type, source_id, status, matched_person_key)
    SELECT
        source_type, lead_id, (ARRAY['matched', 'matched', 'matched', 'pending', 'failed'])[ceil(5 * random())],
        CASE WHEN random() < 0.9 THEN md5((1 + floor(120 * random()))::integer::text)::uuid END
    FROM (
        SELECT COALESCE(external_id, id::text) AS lead_id FROM public.module_ct_cabinet_leads
        UNION SELECT id::text FROM public.module_ct_cabinet_leads
    ) AS lead
    CROSS JOIN (VALUES ('cabinet'), ('scouting')) AS source (source_type)
    WHERE random() < 0.6
    """,
    # Of most persons the lead that they are, else any.
    """
    INSERT INTO canon.identity_origin (
        person_key, origin_tag, origin_source_id, origin_confidence, origin_created_at, decided_by
    )
    SELECT
        person.person_key,
        (ARRAY['cabinet_lead', 'cabinet_lead', 'cabinet_lead', 'migration'])[ceil(4 * random())]::origin_tag,
        COALESCE(
            (
                SELECT min(link.source_pk) FROM canon.identity_links AS link
                WHERE link.person_key = person.person_key AND link.source_table = 'module_ct_cabinet_leads'
            ),
            'gone'
        ),
        95, now(),
        (ARRAY['system', 'manual'])[ceil(2 * random())]::decided_by_type
    FROM canon.identity_registry AS person
    WHERE random() < 0.8
    """,
    # Both sides of the end of the window, in Lima and in Greenwich, and that instant itself.
    """
    INSERT INTO ops.cabinet_lead_recovery_audit (
        lead_id, first_recovered_at, last_recovered_at, recovered_person_key
    )
    SELECT
        COALESCE(external_id, id::text),
        timestamptz '2026-03-15 00:00 UTC'
        + (ARRAY[-1, 0, 4.999, 5, 5.001, 30])[ceil(6 * random())] * interval '1 hour',
        now(),
        md5('1')::uuid
    FROM public.module_ct_cabinet_leads
    WHERE random() < 0.5
    ON CONFLICT DO NOTHING
    """,
    """
    INSERT INTO ops.cabinet_recovery_claim (person_key, lead_date, milestone_trips, milestone_achieved, driver_id)
    SELECT
        md5(n::text)::uuid, day, trips, random() < 0.6, CASE WHEN random() < 0.7 THEN 'driver' END
    FROM generate_series(1, 120) AS n
    CROSS JOIN (VALUES (date '2026-03-01'), (date '2026-03-02'), (date 'infinity')) AS dates (day)
    CROSS JOIN (VALUES (1), (5), (10), (25)) AS milestones (trips)
    WHERE random() < 0.4
    """,
    "UPDATE ops.cabinet_recovery_settings SET business_time_zone = 'America/Lima'",
    "ANALYZE",
)


@pytest.fixture
def host(database: Database) -> Database:
    """A host with every case, analysed, and the views word by word in a schema of their own."""
    database.without_foreign_keys()
    with database.connection.transaction():
        for statement in LOAD:
            database.run(statement)
        database.run("CREATE SCHEMA word_by_word")
        for view, copy in WORD_BY_WORD.items():
            text = (FROZEN / f"{copy}.sql").read_text(encoding="utf-8")
            for other in WORD_BY_WORD:
                text = text.replace(f"ops.{other}", f"word_by_word.{other}")
            database.connection.execute(text.encode())
            assert f"VIEW word_by_word.{view} " in text
    return database


@pytest.mark.parametrize("planned", ["as it likes", "by look-ups", "on all cores"])
def test_it_says_of_every_lead_what_its_words_say(host: Database, planned: str) -> None:
    plan(host.connection, planned)

    assert host.run(DIFFERENCE) == []


def test_the_leads_compared_show_every_case(host: Database) -> None:
    buckets = {row["impact_bucket"]: row["count"] for row in host.run(COUNT_BUCKETS)}
    sources = host.run("SELECT DISTINCT identity_link_source FROM ops.v_cabinet_lead_identity_effective")
    leads = host.value("SELECT count(*) FROM public.module_ct_cabinet_leads")

    assert len(buckets) == 7
    assert min(buckets.values()) >= 3
    assert len(sources) == 3
    assert 20 < leads - sum(buckets.values()) < 200  # whose lead_id is another's


def test_no_figure_depends_on_the_time_zone_of_the_session(host: Database) -> None:
    read: LiteralString = (
        "SELECT md5(string_agg(concat_ws(' ', lead_id, lead_date, window_end_14d, recovered_within_14d, impact_bucket),"
        " '|' ORDER BY lead_id COLLATE \"C\")) FROM ops.v_cabinet_identity_recovery_impact_14d"
    )
    said = set()
    for zone in ("UTC", "America/Lima", "Pacific/Kiritimati"):
        host.run("SELECT set_config('timezone', %s, false)", zone)
        said.add(host.value(read))

    assert len(said) == 1


def test_a_count_of_the_buckets_can_be_shared_out_among_processes(host: Database) -> None:
    plan(host.connection, "on all cores")

    lines = [next(iter(row.values())) for row in host.run("EXPLAIN (COSTS off) " + COUNT_BUCKETS)]

    assert any("Parallel Seq Scan on module_ct_cabinet_leads lead" in line for line in lines), "\n".join(lines)


def plan(connection: psycopg.Connection[Any], planned: str) -> None:
    settings = {
        "as it likes": {},
        "by look-ups": {"enable_hashjoin": "off", "enable_mergejoin": "off", "enable_seqscan": "off"},
        "on all cores": {
            "parallel_setup_cost": "0",
            "parallel_tuple_cost": "0",
            "min_parallel_table_scan_size": "0",
            "min_parallel_index_scan_size": "0",
        },
    }
    for name, value in settings[planned].items():
        connection.execute("SELECT set_config(%s, %s, false)", (name, value))
