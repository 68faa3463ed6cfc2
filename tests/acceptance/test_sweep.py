"""`consumer sweep`: its answers, its exit statuses, its bounds, and how it is stopped."""

import json
import os
import re
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest

from db.connect import Address
from db.migrate import migrate
from tests.database import Database
from tests.processes import (
    PATIENCE_SECONDS,
    InThisProcess,
    eventually,
    own_server,
    refused,
    run_command,
    run_python,
    standby_of,
    started,
)
from tests.traffic import wait_until_in_hand

NINE_KEYS = {
    *("processed", "links_created", "links_updated", "origins_created", "origins_updated"),
    *("audit_created", "audit_updated", "skipped", "errors"),
}


class TestSweep:
    def test_answers_machines_with_exactly_nine_keys(self, database: Database) -> None:
        database.lead(matched_to=database.person())

        done = run_command("sweep", "--json", url=database.url)

        assert (done.returncode, done.stderr) == (0, "")
        result = json.loads(done.stdout)
        assert set(result) == NINE_KEYS
        assert (result["processed"], result["audit_created"], result["errors"]) == (1, 1, [])

    def test_answers_people_with_a_table(self, call: InThisProcess, database: Database) -> None:
        database.lead(matched_to=database.person())

        done = call("sweep", DATABASE_URL=database.url)

        assert (done.returncode, done.stderr) == (0, "")
        for key in NINE_KEYS:
            assert re.search(rf"^{key} +\d+$", done.stdout, re.MULTILINE)

    def test_takes_no_more_than_the_limit(self, call: InThisProcess, database: Database) -> None:
        for _ in range(3):
            database.lead(matched_to=database.person())

        done = call("sweep", "--limit", "2", "--json", DATABASE_URL=database.url)

        assert json.loads(done.stdout)["processed"] == 2

    def test_ends_with_5_where_leads_failed_and_says_which(self, call: InThisProcess, database: Database) -> None:
        database.run("ALTER TABLE canon.identity_origin ADD CHECK (origin_source_id <> 'bad')")
        database.lead("bad", matched_to=database.person())
        database.lead(matched_to=database.person())

        done = call("sweep", DATABASE_URL=database.url)

        assert done.returncode == 5
        assert re.search(r"^processed +1$", done.stdout, re.MULTILINE)
        assert re.search(r"^errors +1$", done.stdout, re.MULTILINE)
        assert "bad: failed: 23514" in done.stderr

    def test_from_python_returns_the_same_nine_keys_and_prints_nothing(self, database: Database) -> None:
        database.run("ALTER TABLE canon.identity_origin ADD CHECK (origin_source_id <> 'bad')")
        database.lead("bad", matched_to=database.person())
        database.lead(matched_to=database.person())

        done = run_python(
            "-c",
            "import json; from consumer import run_job; print(json.dumps(run_job(limit=1000)))",
            url=database.url,
            max_attempts="1",
        )

        assert done.returncode == 0, done.stderr
        result = json.loads(done.stdout)
        assert set(result) == NINE_KEYS
        assert (result["processed"], len(result["errors"])) == (1, 1)

    @pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    def test_that_is_interrupted_ends_after_the_batch_in_hand_with_its_counts(
        self, database: Database, number: signal.Signals, status: int
    ) -> None:
        leads = [database.lead(f"lead-{n}", matched_to=database.person()) for n in range(9)]
        hold_origins(database)
        with psycopg.connect(database.owner_url) as holder:
            holder.execute("SELECT pg_advisory_lock(1)")
            with started("sweep", "--json", url=database.url, batch_size="1") as sweep:
                eventually(lambda: len(held_backends(database)) == 2)
                sweep.send_signal(number)
                # Deaf to nothing: it is the batches in hand that it waits for, having taken in that it was asked.
                eventually(lambda: signal_is_pending(sweep.pid, number) is False)
                eventually(lambda: kernel_word(sweep.pid, "State") == "S")
                holder.execute("SELECT pg_advisory_unlock(1)")
                said, told = sweep.communicate(timeout=PATIENCE_SECONDS)

        assert (sweep.returncode, json.loads(said)["processed"]) == (status, 2)
        assert told == f"consumer: stopped by {number.name}; the next sweep goes on from here\n"
        recovered = [lead for lead in leads if database.audit_of(lead)]
        assert recovered == leads[:2]
        assert database.sweep().as_job_result()["audit_updated"] == 0, "nothing is done twice"
        assert all(database.audit_of(lead) for lead in leads)

    def test_that_is_interrupted_twice_ends_at_once_and_half_does_nothing(self, database: Database) -> None:
        slow = database.lead(matched_to=database.person())
        hold_origins(database)
        with psycopg.connect(database.owner_url) as holder:
            holder.execute("SELECT pg_advisory_lock(1)")
            with started("sweep", url=database.url) as sweep:
                eventually(lambda: held_backends(database))
                while sweep.poll() is None:
                    sweep.send_signal(signal.SIGINT)
                    with suppress(subprocess.TimeoutExpired):
                        sweep.wait(0.05)
                said = sweep.communicate(timeout=PATIENCE_SECONDS)

            assert (sweep.returncode, *said) == (-signal.SIGINT, "", "")
        # What it had sent, its commit included, the server may finish without it, or not.
        ours = "SELECT pid FROM pg_stat_activity WHERE application_name = 'cabinet-recovery sweep' "
        ours += "AND datname = current_database()"
        eventually(lambda: not database.run(ours))
        assert (database.audit_of(slow) is None) == (database.events() == [(slow, "matching_job")])
        database.sweep()
        assert database.audit_of(slow)

    def test_keeps_to_its_rate(self, database: Database) -> None:
        for _ in range(12):
            database.lead(matched_to=database.person())
        began = time.monotonic()

        done = run_command("sweep", "--json", "--max-rate", "8", url=database.url)

        assert json.loads(done.stdout)["processed"] == 12
        assert time.monotonic() - began >= 10 / 8, "a quarter of a second's leads may come at once"
        times = [
            row["last_recovered_at"]
            for row in database.run(
                "SELECT DISTINCT last_recovered_at FROM ops.cabinet_lead_recovery_audit ORDER BY last_recovered_at"
            )
        ]
        assert len(times) == 6, "two at a time: the smaller the rate, the smaller the batches"

    def test_waits_while_too_many_sessions_are_active_and_says_so_once(self, database: Database) -> None:
        lead = database.lead(matched_to=database.person())
        with psycopg.connect(database.owner_url, autocommit=True) as busy, ThreadPoolExecutor(1) as pool:
            work = pool.submit(busy.execute, "SELECT pg_sleep(60)")
            wait_until_in_hand(database)
            with started("sweep", "--json", "--max-active-sessions", "0", url=database.owner_url) as sweep:
                assert sweep.stderr
                waiting = json.loads(sweep.stderr.readline())
                assert database.audit_of(lead) is None
                busy.cancel()
                said, told = sweep.communicate(timeout=PATIENCE_SECONDS)
            assert isinstance(work.exception(), psycopg.errors.QueryCanceled)

        assert waiting["event"] == "sweep.waiting"
        assert re.fullmatch(r"\d+ sessions are active, more than 0", waiting["reason"])
        assert [json.loads(line)["event"] for line in told.splitlines()] == ["sweep.resumed"]
        assert json.loads(said)["processed"] == 1

    def test_waits_while_a_standby_s_replay_is_behind(self) -> None:
        with own_server() as primary, standby_of(primary) as standby:
            migrate(Address.parse(primary.url("postgres")))
            database = Database(primary.url("postgres"))
            lead = database.lead(matched_to=database.person())
            with psycopg.connect(standby.url("postgres"), autocommit=True) as replica:
                replica.execute("SELECT pg_wal_replay_pause()")
                behind = "SELECT pid FROM pg_stat_replication WHERE replay_lag > interval '0.5 s'"
                eventually(lambda: database.run("SELECT pg_switch_wal()") and database.run(behind))
                with started("sweep", "--json", "--max-replication-lag", "0.2", url=database.url) as sweep:
                    assert sweep.stderr
                    assert "replication lag is" in json.loads(sweep.stderr.readline())["reason"]
                    assert database.audit_of(lead) is None
                    replica.execute("SELECT pg_wal_replay_resume()")
                    said, _ = sweep.communicate(timeout=PATIENCE_SECONDS)
            database.close()

        assert json.loads(said)["processed"] == 1

    @pytest.mark.parametrize("option", [("--max-replication-lag", "5"), ("--max-active-sessions", "9")])
    def test_does_not_wait_for_what_its_role_cannot_see(
        self, call: InThisProcess, database: Database, option: tuple[str, str]
    ) -> None:
        database.lead(matched_to=database.person())
        role = f"blind_{os.getpid()}"
        database.connection.execute(f"CREATE ROLE {role}")
        for schema in ("public", "canon", "ops"):
            database.connection.execute(f"GRANT USAGE ON SCHEMA {schema} TO {role}")
            database.connection.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA {schema} TO {role}")
        try:
            line = refused(call("sweep", *option, DATABASE_URL=f"{database.owner_url} options='-c role={role}'"), 4)
        finally:
            database.connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")

        assert "GRANT pg_read_all_stats" in line

    @pytest.mark.parametrize(
        "option", [("--max-rate", "0"), ("--max-replication-lag", "-1"), ("--max-active-sessions", "x")]
    )
    def test_refuses_bounds_that_make_no_sense(self, call: InThisProcess, option: tuple[str, str]) -> None:
        assert option[0] in refused(call("sweep", *option), 2)


def hold_origins(database: Database) -> None:
    """Whoever makes an origin waits as long as somebody has the advisory lock 1."""
    database.run(
        "CREATE FUNCTION public.wait() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN SET LOCAL lock_timeout = 0; PERFORM pg_advisory_xact_lock_shared(1); RETURN new; END'"
    )
    database.run(
        "CREATE TRIGGER wait BEFORE INSERT ON canon.identity_origin FOR EACH ROW EXECUTE FUNCTION public.wait()"
    )


def held_backends(database: Database) -> list[dict[str, Any]]:
    return database.run(
        "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND wait_event = 'advisory' "
        "AND datname = current_database()"
    )


def signal_is_pending(pid: int, number: signal.Signals) -> bool:
    """Whether the process has not taken the signal yet."""
    return bool(int(kernel_word(pid, "ShdPnd"), 16) >> (number - 1) & 1)


def kernel_word(pid: int, name: str) -> str:
    """The first word of what the kernel says of a process."""
    found = re.search(rf"^{name}:\s*(\w+)", Path(f"/proc/{pid}/status").read_text(encoding="utf-8"), re.MULTILINE)
    assert found
    return found[1]
