"""Faults of the server: it goes and comes back, ends sessions, is slow, is busy, is full."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import pytest

from db.embedded import SHARED_TEMPORARY, EmbeddedServer, spawn_options
from tests.chaos.form import in_form
from tests.chaos.trial import Trial, last

AWAY_SECONDS = in_form(5, 2)
SEVERAL = in_form(4, 2)

# The host takes its time over an origin, for as long as it is told to.
SLOW_ORIGINS = """
    CREATE TABLE chaos.slowness (seconds integer);
    CREATE FUNCTION chaos.take_time() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
    BEGIN
        PERFORM pg_sleep(seconds) FROM chaos.slowness;
        RETURN new;
    END $$;
    CREATE TRIGGER take_time BEFORE INSERT ON canon.identity_origin FOR EACH ROW EXECUTE FUNCTION chaos.take_time();
"""

LOCK_EVERY_EIGHTH_ORIGIN = """
    SELECT FROM canon.identity_origin WHERE get_byte(uuid_send(person_key), 15) % 8 = 0 FOR UPDATE
"""


def stop_fast(server: EmbeddedServer) -> None:
    server.stop("fast")


def stop_immediately(server: EmbeddedServer) -> None:
    server.stop("immediate")


@pytest.mark.parametrize(
    ("how", "name"),
    [(stop_fast, "stopped fast"), (stop_immediately, "stopped immediately"), (EmbeddedServer.kill, "SIGKILL")],
)
def test_ended_and_started_again(server: EmbeddedServer, url: str, how: object, name: str) -> None:
    with Trial(f"server: {name}, {AWAY_SECONDS} s away", url) as trial:
        for _ in range(SEVERAL):
            with trial.fault():
                how(server)  # type: ignore[operator]
                last(AWAY_SECONDS)
                server.start()


@pytest.mark.parametrize(
    ("name", "which"),
    [
        ("listener's backend terminated", "application_name = 'cabinet-recovery listener'"),
        ("all backends terminated", "backend_type = 'client backend'"),
    ],
)
def test_sessions_are_ended(url: str, name: str, which: str) -> None:
    with Trial(f"server: {name}", url) as trial:
        for _ in range(in_form(10, 3)):
            with trial.fault():
                trial.end_sessions(which)


def test_statements_take_longer_than_their_timeout(url: str) -> None:
    with Trial("server: statement_timeout errors", url, statement_timeout_seconds="1") as trial:
        trial.ask(SLOW_ORIGINS)
        for _ in range(in_form(3, 1)):
            with trial.fault():
                trial.ask("INSERT INTO chaos.slowness VALUES (5)")
                last(in_form(10, 3))
                trial.ask("TRUNCATE chaos.slowness")


def test_rows_are_locked_for_longer_than_the_lock_timeout(url: str) -> None:
    """Origins of the system's, which recovery has to replace; the other leads do not wait for them."""
    with Trial("server: lock_timeout errors", url) as trial, psycopg.connect(url) as holder:
        trial.ask("""
            INSERT INTO canon.identity_origin
                (person_key, origin_tag, origin_source_id, origin_confidence, origin_created_at, resolution_status)
            SELECT person_key, 'migration', 'before', 50, now(), 'resolved_auto' FROM canon.identity_registry
            ON CONFLICT (person_key) DO NOTHING -- the load is running already
        """)
        for _ in range(in_form(3, 1)):
            with trial.fault():
                holder.execute(LOCK_EVERY_EIGHTH_ORIGIN)
                last(in_form(10, 3))
                holder.rollback()


def test_the_disk_is_full(url: str) -> None:
    with small_disk() as disk, audit_table_on(disk, url), Trial("server: disk full", url) as trial:
        for _ in range(in_form(3, 1)):
            outages = len(trial.daemon.events("database.lost"))
            with trial.fault():
                with full(disk):
                    lost = trial.daemon.wait_for("database.lost", count=outages + 1)
                    last(in_form(10, 2))
                assert "No space left on device" in lost["reason"]


@contextmanager
def small_disk() -> Iterator[Path]:
    """A file system of 8 MB, whose files belong to the server's account."""
    owner = spawn_options().get("user", os.geteuid())
    with tempfile.TemporaryDirectory(prefix="crpg-", dir=SHARED_TEMPORARY) as folder:
        Path(folder).chmod(0o755)
        disk = Path(folder) / "disk"
        disk.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size=8m,mode=700,uid={owner}", "none", disk]
        if subprocess.run(mount, check=False, capture_output=True).returncode:
            pytest.skip("needs the right to mount a file system")
        try:
            yield disk
        finally:
            subprocess.run(["umount", disk], check=True)


@contextmanager
def audit_table_on(disk: Path, url: str) -> Iterator[None]:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE TABLESPACE small_disk LOCATION '{disk}'")
        move_audit_table(connection, "small_disk")
        yield
        move_audit_table(connection, "pg_default")
        connection.execute("DROP TABLESPACE small_disk")


def move_audit_table(connection: psycopg.Connection, tablespace: str) -> None:
    connection.execute(f"ALTER TABLE ops.cabinet_lead_recovery_audit SET TABLESPACE {tablespace}")
    connection.execute(f"ALTER INDEX ops.cabinet_lead_recovery_audit_pkey SET TABLESPACE {tablespace}")


@contextmanager
def full(disk: Path) -> Iterator[None]:
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(8192))
    yield
    ballast.unlink()
