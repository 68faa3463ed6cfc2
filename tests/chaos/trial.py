"""A trial: a daemon and an engine at work on one database, faults that strike them, and what must come of it."""

import re
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row

from tests.chaos.engine import Engine
from tests.chaos.form import in_form
from tests.chaos.report import Row
from tests.processes import Daemon, eventually

# The daemon runs as the role that operators are told to make; TCP asks it for the password.
SERVICE = {"user": "recovery", "password": "of-the-chaos-suite"}
WITNESS_SETTINGS = {"track_commit_timestamp": "on"}

# It is milliseconds on a machine that has nothing else to do; less than the sweeps that stand in are apart.
NORMAL_SECONDS = 3.0
LATE_SECONDS = 0.5
LOOK_SECONDS = 0.1
PATIENCE_SECONDS = 60.0
SOME_COMMITS = in_form(40, 15)


class Trial:
    """Runs an engine and daemons for the time of a `with` block, in which `fault()` blocks are faults.

    At the end of the block the engine stops, what is pending is recovered, and all is accounted for: from the tables
    alone, but for the engine's errors. Whoever strikes a daemon down starts another one.
    """

    def __init__(
        self,
        fault: str,
        url: str,
        *,
        service_url: str | None = None,
        engine: Engine | None = None,
        variables: Mapping[str, str] | None = None,
        **settings: str,
    ) -> None:
        self.daemons: list[Daemon] = []
        self.normal_seconds = NORMAL_SECONDS  # for the next match after a fault, at most
        self.late_seconds = LATE_SECONDS  # a match after the fault that waits longer still suffers from it
        self.is_whole_again = True  # after each fault all roles are to be connected, and the listener proved
        self.patience_seconds = PATIENCE_SECONDS
        self.engine = engine or Engine(url)
        self._fault = fault
        self._url = url
        self._service_url = make_conninfo(service_url or url, **SERVICE)
        self._variables = variables
        self._settings = {"reconnect_max_seconds": "5"} | settings
        self._faults: list[tuple[datetime, datetime]] = []
        self._next_matches: list[str] = []
        self._closing = ExitStack()

    @property
    def daemon(self) -> Daemon:
        return self.daemons[-1]

    def __enter__(self) -> Self:
        with ExitStack() as on_failure:
            on_failure.push(self._closing)
            self._closing.enter_context(self.engine)
            self.start_daemon().wait_until_ready()
            self.flow()
            on_failure.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._closing:
            if kind is None:
                self._conclude()

    def start_daemon(self) -> Daemon:
        """Start a consumer, in addition to those that run."""
        daemon = Daemon(self._service_url, self._variables, **self._settings)
        self._closing.push(daemon)
        self.daemons.append(daemon)
        return daemon

    def kill_daemon(self) -> None:
        self.daemons.pop().kill()

    def ask(self, statement: str, *parameters: Any) -> list[dict[str, Any]]:
        """Ask the server, on a connection that no fault can have struck before."""
        # What the witness saw is much, and the planner knows nothing of it; the service's views are made of look-ups.
        options = "-c enable_nestloop=off" if "chaos." in statement else ""
        with psycopg.connect(self._url, autocommit=True, row_factory=dict_row, options=options) as connection:
            cursor = connection.execute(statement, parameters)
            return cursor.fetchall() if cursor.description else []

    def end_sessions(self, which: str) -> None:
        """Terminate those backends of the database that answer the condition, the engine's too."""
        self.ask(f"""
            SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE datname = current_database() AND pid <> pg_backend_pid() AND {which}
        """)

    def flow(self, commits: int = SOME_COMMITS) -> None:
        """Wait until the engine has committed so many more transactions."""
        self.engine.wait_for_commits(commits)

    def wait_for_batch_in_hand(self) -> None:
        """Commit a bulk of matches and wait until a daemon is in the midst of its transaction."""
        self.engine.match_new(1_000)
        eventually(
            lambda: self.ask("""
                SELECT pid FROM pg_stat_activity
                WHERE starts_with(application_name, 'cabinet-recovery') AND backend_xid IS NOT NULL
                    AND datname = current_database()
            """)
        )

    @contextmanager
    def fault(self) -> Iterator[None]:
        """The block is the fault, and ends it.

        Afterwards: the matches of its time are recovered, the engine goes on, the daemons are back to normal, and
        one more match is made to see that it is.
        """
        began = now()
        yield
        ended = now()
        self._faults.append((began, ended))
        self.wait_until_recovered(ended)
        self.flow()
        for daemon in self.daemons if self.is_whole_again else ():
            eventually(lambda daemon=daemon: not is_in_outage(daemon), self.patience_seconds)
        self._next_matches += self.engine.match_new()
        self.wait_until_recovered(now())

    def wait_until_recovered(self, committed_until: datetime, seconds: float | None = None) -> None:
        self._wait_until_none(
            "SELECT 1 FROM chaos.lost WHERE committed_at <= %s LIMIT 1", committed_until, seconds=seconds
        )

    def _wait_until_none(self, statement: str, *parameters: Any, seconds: float | None = None) -> None:
        def look() -> bool:
            last(LOOK_SECONDS)  # the servers of other trials want to get on
            return not self.ask(statement, *parameters)

        eventually(look, seconds or self.patience_seconds)

    def longest_wait(self) -> float:
        """The longest that any match waited since the first fault began, in seconds."""
        return max(self._waits(self._faults[0][0]), default=0.0)

    def _conclude(self) -> None:
        self.engine.stop()
        self._wait_until_none("SELECT 1 FROM ops.cabinet_recovery_outbox LIMIT 1")
        row = self._row()
        row.record()
        print(*row.cells(), sep=" | ")
        assert (self.ask("SELECT * FROM chaos.lost"), self.ask("SELECT * FROM chaos.doubled")) == ([], [])
        assert self.ask("SELECT * FROM chaos.invented") == []
        assert self.engine.aborts == []
        assert self.ask("SELECT * FROM ops.v_cabinet_recovery_decision WHERE is_due") == [], "a sweep would write"
        assert self.ask(
            "SELECT * FROM ops.cabinet_recovery_exception "
            "WHERE outcome = 'failed' OR (resolved_at IS NULL AND outcome <> 'origin_held')"
        ) == [], "a fault of the environment counts against no lead"  # fmt: skip
        assert max(row.next_match) < self.normal_seconds
        for daemon in self.daemons:
            # One that was started a moment ago may not yet have heard of signals.
            assert daemon.wait_until_ready().stop() == 0, daemon.log
            assert daemon.plain_lines == []

    def _row(self) -> Row:
        (counts,) = self.ask("""
            SELECT
                (SELECT count(*) FROM chaos.match) AS matches,
                (SELECT count(*) FROM chaos.lost) AS lost,
                (SELECT count(*) FROM chaos.doubled) AS doubled
        """)
        return Row(
            fault=self._fault,
            **counts,
            aborts=len(self.engine.aborts),
            recovered_after=[self._recovered_after(number) for number in range(len(self._faults))],
            longest_wait=self.longest_wait(),
            next_match=[self._wait_of(lead_id) for lead_id in self._next_matches],
        )

    def _recovered_after(self, number: int) -> float:
        """Seconds from the fault's end until all matches that it kept waiting were recovered."""
        began, ended = self._faults[number]
        until = self._faults[number + 1][0] if number + 1 < len(self._faults) else now()
        (last,) = self.ask(
            "SELECT max(recovered_at) AS recovered_at FROM chaos.wait "
            "WHERE committed_at BETWEEN %s AND %s AND (committed_at <= %s OR seconds > %s)",
            began,
            until,
            ended,
            self.late_seconds,
        )
        return max((last["recovered_at"] - ended).total_seconds(), 0.0) if last["recovered_at"] else 0.0

    def _wait_of(self, lead_id: str) -> float:
        (wait,) = self.ask("SELECT seconds FROM chaos.wait WHERE lead_id = %s ORDER BY committed_at LIMIT 1", lead_id)
        return float(wait["seconds"])

    def _waits(self, since: datetime) -> list[float]:
        return [row["seconds"] for row in self.ask("SELECT seconds FROM chaos.wait WHERE committed_at >= %s", since)]


def by_port(url: str, port: int) -> str:
    """The same database as the service reaches it over TCP."""
    return make_conninfo(url, host="127.0.0.1", port=port, **SERVICE)


def now() -> datetime:
    """The time by the clock that the servers of these tests share with us."""
    return datetime.now(UTC)


def is_in_outage(daemon: Daemon) -> bool:
    """Whether the last that it said of the database is that it lost it."""
    told = [line for line in daemon.log.splitlines() if '"event": "database.' in line]
    return bool(told) and '"database.lost"' in told[-1]


def last(seconds: float) -> None:
    """The time that a fault lasts, which is part of the fault."""
    time.sleep(seconds)


def resident_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"^VmRSS:\s+(\d+) kB$", status, re.MULTILINE)
    assert found
    return 1024 * int(found[1])
