"""A consumer of earlier code beside the present one: they share one database, and one stream of matches."""

import io
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path

import pytest

from db.connect import SCHEMA_REVISION
from tests.database import Database
from tests.processes import ELSEWHERE, Daemon, eventually
from tests.traffic import audits, latencies, match, unmatched_leads

CHECKOUT = Path(__file__).parents[2]
REVISION_OF = "from db.connect import SCHEMA_REVISION; print(SCHEMA_REVISION)"
EACH_LEAD_IS_TOLD = {"log_level": "debug", "sweep_interval_seconds": "1"}


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The code as it was just before the newest migration came. It runs on what is installed for the present code."""
    try:
        packed = code_before(f"migrations/versions/{SCHEMA_REVISION}_*")
    except (LookupError, FileNotFoundError) as error:
        pytest.skip(f"needs git, and a clone with the history of the project: {error}")
    folder = tmp_path_factory.mktemp("earlier")
    with tarfile.open(fileobj=io.BytesIO(packed)) as files:
        files.extractall(folder, filter="data")
    return folder


def code_before(newest: str) -> bytes:
    """What was there before this file was, as a tar archive; raises LookupError where the history does not go there."""
    if git("rev-parse", "--is-shallow-repository").strip() == b"true":
        raise LookupError("this one is shallow")
    commits = git("log", "--diff-filter=A", "--format=%H", "--", newest).decode().split()
    if not commits:
        raise LookupError(f"no commit brings {newest}")
    return git("archive", f"{commits[-1]}^")


def git(*arguments: str) -> bytes:
    done = subprocess.run(["git", "-C", CHECKOUT, *arguments], check=False, capture_output=True)
    if done.returncode:
        raise LookupError(done.stderr.decode().strip())
    return done.stdout


@pytest.mark.slow
def test_old_and_new_share_one_stream_and_nothing_is_lost_or_done_twice(database: Database, earlier: Path) -> None:
    code = {"PYTHONPATH": str(earlier)}
    asked = [sys.executable, "-c", REVISION_OF]
    revision = subprocess.check_output(asked, cwd=ELSEWHERE, env=code, text=True).strip()
    assert revision < SCHEMA_REVISION
    stream, bulk = unmatched_leads(database, "stream", 3_000), unmatched_leads(database, "bulk", 3_000)

    with (
        Daemon(database.url, code, **EACH_LEAD_IS_TOLD) as old,
        Daemon(database.url, **EACH_LEAD_IS_TOLD) as new,
    ):
        for daemon in (old, new):
            daemon.wait_for("service.ready")
        spread = latencies(database.owner_url, stream, rate=200)
        match(database, bulk)  # too many to be named: both sweep
        eventually(lambda: len(audits(database)) == len(stream + bulk))
        rematched = stream[:500]
        for lead in rematched:
            database.job(lead, database.person())
        eventually(lambda: sum(first != last for first, last in audits(database).values()) == len(rematched))
        assert (old.stop(), new.stop()) == (0, 0)
        shares = [Counter(told["lead_id"] for told in daemon.events("lead.recovered")) for daemon in (old, new)]
        complaints = [
            *(line for daemon in (old, new) for line in daemon.plain_lines),
            *(one for daemon in (old, new) for one in daemon.events("database.lost")),
        ]

    parts = [share.total() for share in shares]
    print(f"schema {SCHEMA_REVISION}: code of {revision} and the present one recovered {parts}; {spread}")
    assert complaints == []
    assert all(share.keys() & set(stream) for share in shares), "both had a part of the stream"
    assert sum(shares, Counter()) == Counter(stream + bulk + rematched)
    assert database.events() == []
    written = "canon.identity_links", "canon.identity_origin", "ops.cabinet_lead_recovery_audit"
    assert {table: len(database.row_versions()[table]) for table in written} == {
        "canon.identity_links": len(stream + bulk),
        "canon.identity_origin": len(stream + bulk + rematched),  # the person of before keeps it
        "ops.cabinet_lead_recovery_audit": len(stream + bulk),
    }
