"""How many instructions the server carries out for a match: what the triggers cost, whatever the machine is doing.

Counted by valgrind's callgrind in a server of its own in single-user mode, where a statement has no client, no other
backend and no disk to wait for. Without valgrind nothing is counted.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from benchmarks.engine import INSERT_JOBS, PERSONS, SINGLE_MATCH, prepare
from benchmarks.figure import Figure
from benchmarks.server import Databases
from db.connect import Address
from db.embedded import SHARED_TEMPORARY, EmbeddedServer, runnable_binaries, spawn_options
from db.migrate import migrate
from tests.database import Database

KINDS = ("none", "plain", "ours")
STATEMENTS = {
    "a match inserted": SINGLE_MATCH,
    "a match updated": """
UPDATE ops.identity_matching_jobs
SET matched_person_key = (ARRAY[{}, {}]::uuid[])[1 + attempt_count % 2], attempt_count = attempt_count + 1 WHERE id = 1;
""".format(*map(repr, PERSONS)),
    "a job updated, no match": "UPDATE ops.identity_matching_jobs SET last_attempt_at = now() WHERE id = 1;",
}
FEW, MANY = 20, 120  # what is done once, as planning and caching, is in both


def measure(_: Databases, *, short: bool) -> Iterator[Figure]:
    valgrind = shutil.which("valgrind")
    if not valgrind:
        print("no valgrind here: instructions are not counted", file=sys.stderr)
        return
    statements = dict(list(STATEMENTS.items())[:1]) if short else STATEMENTS
    with tempfile.TemporaryDirectory(prefix="crpg-", dir=SHARED_TEMPORARY) as home:
        Path(home).chmod(0o755)  # the server's account is to reach what it is given
        data = Path(home) / "data"
        _fill(data)
        for name, statement in statements.items():
            counts = {kind: _instructions(valgrind, data, kind, statement) for kind in KINDS}
            yield _figure(name, counts)


def _figure(name: str, counts: Mapping[str, float]) -> Figure:
    beside = f"plain trigger {counts['plain']:,.0f}, none {counts['none']:,.0f}"
    ratio = counts["ours"] / counts["plain"]
    return Figure(f"instructions, {name}", counts["ours"], "", beside, ratio, most=1)


def _fill(data: Path) -> None:
    """A database of each kind, with a matched job in it."""
    with EmbeddedServer(data) as server, psycopg.connect(server.url(), autocommit=True) as admin:
        for kind in KINDS:
            admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(kind)))
            url = make_conninfo(server.url(), dbname=kind)
            migrate(Address.parse(url))
            database = Database(url)
            prepare(database, kind)
            database.connection.execute(INSERT_JOBS, {"person": PERSONS[0], "first": 1, "last": 1})
            database.close()


def _instructions(valgrind: str, data: Path, kind: str, statement: str) -> float:
    """Of one statement, in the server's own part of the work."""
    few, many = (_collected(valgrind, data, kind, statement, times) for times in (FEW, MANY))
    return (many - few) / (MANY - FEW)


def _collected(valgrind: str, data: Path, kind: str, statement: str, times: int) -> int:
    command = [valgrind, "--tool=callgrind", "--callgrind-out-file=/dev/null", "--toggle-collect=exec_simple_query"]
    command += [str(runnable_binaries() / "postgres"), "--single", "-D", str(data), "-c", "autovacuum=off", kind]
    in_one_line = " ".join(statement.split())  # single-user mode reads a statement a line
    typed = f"PREPARE match AS {in_one_line}\n" + "EXECUTE match;\n" * times
    options = {name: value for name, value in spawn_options().items() if name != "stdin"}
    done = subprocess.run(command, input=typed, check=False, capture_output=True, text=True, **options)
    collected = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode or "ERROR" in done.stderr or not collected:
        raise RuntimeError(done.stderr)
    return int(collected[1])
