"""The demo: a real server and the real consumer; the fleet and the matching engine are played."""

import os
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, LiteralString

import psycopg
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from consumer.demo.engine import RECOVERED, Answer, ConsumerProcess, Tally, plan
from consumer.demo.fleet import DAYS, Fleet, build_fleet, load
from consumer.errors import SettingsError
from db.connect import Address
from db.embedded import EmbeddedServer, ServerUnavailable, runnable_binaries
from db.migrate import migrate

PLAY_UNTIL_SECONDS = 17.0  # after the start of it all
LEAST_PLAY_SECONDS = 8.0  # however long a slow machine took to come up
LAST_ANSWERS_SECONDS = 10.0
ANSWERS_SHOWN = 12
LIVE_COLUMNS = {"time": 8, "lead": 11, "matched by": 13, "outcome": 13, "lag": 9}  # steady widths
BUCKETS = (
    "still_unidentified",
    "identified_but_missing_origin",
    "identified_origin_no_claim",
    "identified_origin_claim",
    "recovered_within_14d_but_no_claim",
    "recovered_within_14d_and_claim",
    "recovered_late",
)
IMPACT: LiteralString = "SELECT impact_bucket, count(*) FROM ops.v_cabinet_identity_recovery_impact_14d GROUP BY 1"
PENDING: LiteralString = "SELECT count(*) FROM ops.v_cabinet_recovery_pending"
CLOSING = """
Matched before the service ran: {at_start} recovered when it started.
Matched live: {matched}. Recovered: {recovered}. Left alone: {others}.
Lag: {lag}.

The lag is lag_ms of the consumer's own log: from the event that the trigger
wrote, inside the engine's transaction, to the statement that recovered the
lead, by the server's clock; the commit that follows is not in it.
recovered_late: the 14 days were over. Of identified_but_missing_origin remain
origins that were decided by hand or belong to the person's other lead.
"""
STAYING = """
All of it stays up until Ctrl-C; what is recovered meanwhile shows here.
In another terminal:
  export DATABASE_URL='{url}'
  {command} status
  {command} reprocess {left_alone}
  {psql} "$DATABASE_URL"
To match a lead as the engine does, in psql:
  UPDATE ops.identity_matching_jobs
  SET status = 'matched', matched_person_key = '{person_key}'
  WHERE source_type = 'cabinet' AND source_id = '{unfound}';
"""
NEXT_STEPS = """\
What to do next, with your database:
  export DATABASE_URL=postgresql://user:password@host:5432/database
  consumer migrate            adds the service's schema, and leaves yours alone
  consumer triggers status    do the engine's matches become events?
  consumer sweep              recovers what was matched until now: the backfill
  consumer run                the daemon, for good
README.md tells the rest: the role it needs, settings, deployment, monitoring."""


def demo(*, keep: bool) -> None:
    """Show the service at work in about 20 seconds; with `keep`, stay up until interrupted.

    No database but its own, temporary one is touched, whatever DATABASE_URL says. However it ends, server, data and
    consumer are gone then: also on SIGTERM and SIGHUP, which become SystemExit. Raises SettingsError where no
    embedded server can be had, and ConsumerFailed.
    """
    started = time.monotonic()
    _forget_other_databases()
    signals = Signals()
    try:
        with _clearing_up(signals) as stage:
            _perform(stage, signals, started, keep=keep)
    except Exception:
        signals.insist()
        raise


@contextmanager
def _clearing_up(signals: "Signals") -> Iterator[ExitStack]:
    stage = ExitStack()
    try:
        yield stage
    finally:
        with signals.held():
            stage.close()


class Signals:
    """Turns the first SIGINT, SIGTERM or SIGHUP into an exception, and ignores what follows: we are cleaning up."""

    def __init__(self) -> None:
        self._received: signal.Signals | None = None
        self._holding = False
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
                signal.signal(number, self._on_signal)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let the block finish first: half of it would leave something behind."""
        self._holding, earlier = True, self._received
        try:
            yield
        finally:
            self._holding = False
            if self._received is not earlier:
                self._raise()

    def insist(self) -> None:
        """Raise for the signal again: a query that it interrupted leaves a connection that fails when it is closed."""
        if self._received is not None:
            self._raise()

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self._received is None:
            self._received = signal.Signals(number)
            if not self._holding:
                self._raise()

    def _raise(self) -> None:
        if self._received is signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + (self._received or 0))


def _perform(stage: ExitStack, signals: Signals, started: float, *, keep: bool) -> None:
    console = _console()
    fleet = build_fleet()
    url, connection = _set_up(stage, fleet, console)
    before = _impact(connection)
    with signals.held():
        consumer = ConsumerProcess(url)
        stage.callback(consumer.close)
    consumer.wait_until_listening()
    play = Play(consumer, stage.enter_context(psycopg.connect(url, autocommit=True)), connection)
    until = max(started + PLAY_UNTIL_SECONDS, time.monotonic() + LEAST_PLAY_SECONDS)
    with _display(console, play) as update:
        play.run(fleet, until, update)
    if not keep:
        consumer.stop()
    _show_closing(console, play.tally(), before, _impact(connection))
    if keep:
        _stay(console, play, fleet, url)


def _console() -> Console:
    # Wide where nobody looks, so that nothing is cut.
    width = None if sys.stdout.isatty() else 120
    return Console(markup=False, highlight=False, width=width)


def _forget_other_databases() -> None:
    """What libpq reads from the environment would reach into our own connections, too."""
    for name in list(os.environ):
        if name.startswith("PG"):
            del os.environ[name]


def _set_up(stage: ExitStack, fleet: Fleet, console: Console) -> tuple[str, psycopg.Connection[Any]]:
    """Start a server, with our schema and the fleet in it; returns its address and a connection to it."""
    console.print("Starting a PostgreSQL server of its own, with the schema and a fleet in it ...")
    server = EmbeddedServer()
    try:
        stage.enter_context(server)
    except ServerUnavailable as error:
        raise SettingsError(str(error)) from error
    url = server.url()
    migrate(Address.parse(url))
    connection = stage.enter_context(psycopg.connect(url, autocommit=True))
    load(connection, fleet)
    console.print(
        f"{len(fleet.leads)} leads of the last {DAYS} days, {len(fleet.found)} of them matched before the service "
        "existed.\nNow `consumer run` starts, and the matching engine goes on matching.\n"
    )
    return url, connection


def _impact(connection: psycopg.Connection[Any]) -> dict[str, int]:
    return dict(connection.execute(IMPACT).fetchall())


@dataclass
class Play:
    """The engine at work, the consumer's answers to it, and how many leads were pending when we last looked."""

    consumer: ConsumerProcess
    engine: psycopg.Connection[Any]
    observer: psycopg.Connection[Any]
    matched: set[str] = field(default_factory=set)
    pending: int = 0

    def run(self, fleet: Fleet, until: float, update: Callable[[], None]) -> None:
        """Match until the moment, then wait for what the consumer makes of the last ones."""
        for match in plan(fleet.unfound, until):
            self.consumer.pause_until(match.due)
            row = self.observer.execute(PENDING).fetchone()
            self.pending = row[0] if row else 0
            update()
            self.matched.update(lead.lead_id for lead in match.leads)
            match.commit(self.engine)
        self.consumer.wait_for_answers(self.matched, LAST_ANSWERS_SECONDS)

    def tally(self) -> Tally:
        return Tally.of(self.matched, self.consumer.answers)


@contextmanager
def _display(console: Console, play: Play) -> Iterator[Callable[[], None]]:
    """A table that lives on a terminal, elsewhere a line every second; yields what to call after each match."""
    if console.is_interactive and sys.stdout.isatty():
        with Live(console=console, get_renderable=lambda: _live_table(play), refresh_per_second=8):
            yield lambda: None
        return
    started = told = time.monotonic()

    def tell() -> None:
        nonlocal told
        if (now := time.monotonic()) - told >= 1:
            told = now
            console.print(f"{now - started:4.0f} s  {_counts(play)}; lag {play.tally().lag}")

    yield tell


def _live_table(play: Play) -> Group:
    table = Table(box=None)
    for heading, width in LIVE_COLUMNS.items():
        table.add_column(heading, min_width=width, justify="right" if heading == "lag" else "left")
    live = [answer for answer in list(play.consumer.answers) if answer.lead_id in play.matched]
    for answer in live[-ANSWERS_SHOWN:]:
        table.add_row(*_cells(answer))
    return Group(table, Text(f"\n{_counts(play)}\nlag {play.tally().lag}"))


def _counts(play: Play) -> str:
    return f"{play.tally()}; pending {play.pending}"


def _cells(answer: Answer) -> Sequence[str]:
    way = {"job": "matching job", "link": "identity link"}[answer.found_by]
    lag = "" if answer.lag_ms is None else f"{answer.lag_ms:.1f} ms"
    return f"{answer.at:%H:%M:%S}", answer.lead_id, way, answer.outcome, lag


def _show_closing(console: Console, tally: Tally, before: Mapping[str, int], after: Mapping[str, int]) -> None:
    table = Table("Impact within 14 days", "before", "after", box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for bucket in BUCKETS:
        table.add_row(bucket, str(before.get(bucket, 0)), str(after.get(bucket, 0)))
    console.print("", table, sep="\n")
    others = [f"{count} {outcome}" for outcome, count in tally.others.items()]
    others += [f"{tally.unanswered} unanswered"] if tally.unanswered else []
    console.print(
        CLOSING.format(
            at_start=tally.recovered_at_start,
            matched=tally.matched,
            recovered=tally.recovered,
            others=", ".join(others) or "none",
            lag=tally.lag,
        )
    )
    console.print(NEXT_STEPS)


def _stay(console: Console, play: Play, fleet: Fleet, url: str) -> None:
    """Tell how to look around, then show what the consumer recovers, until interrupted."""
    unfound = fleet.newcomer(play.matched)
    text = STAYING.format(
        url=url,
        command=shlex.quote(str(Path(sys.executable).with_name("consumer"))),
        psql=shlex.quote(shutil.which("psql") or str(runnable_binaries() / "psql")),
        left_alone=next((a.lead_id for a in play.tally().live if a.outcome != RECOVERED), fleet.found[0].lead_id),
        unfound=unfound.lead_id,
        person_key=unfound.person.key,
    )
    answers = play.consumer.follow()  # also what is matched as soon as the text is there
    console.print(text, soft_wrap=True)
    for answer in answers:
        console.print(*_cells(answer), sep="  ")
