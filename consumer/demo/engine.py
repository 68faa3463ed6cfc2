"""The demo's two players: the matching engine, played here, and the real consumer, watched through its log."""

import itertools
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any, LiteralString

import psycopg

import consumer
from consumer.demo.fleet import FoundBy, Lead
from consumer.settings import PREFIX

PAUSE_SECONDS = 0.125
BURST = 30
BURST_EVERY = 32  # of so many matches one is a burst
PATIENCE_SECONDS = 30.0
RECOVERED = "recovered"

MATCH_BY_JOB: LiteralString = """
UPDATE ops.identity_matching_jobs AS job
SET
    status = 'matched',
    matched_person_key = found.person_key,
    attempt_count = job.attempt_count + 1,
    last_attempt_at = now(),
    fail_reason = NULL,
    updated_at = now()
FROM unnest(%(lead_ids)s::text[], %(person_keys)s::uuid[]) AS found (lead_id, person_key)
WHERE job.source_type = 'cabinet' AND job.source_id = found.lead_id
"""
MATCH_BY_LINK: LiteralString = """
INSERT INTO canon.identity_links (
    person_key, source_table, source_pk, snapshot_date, match_rule, match_score, confidence_level
)
SELECT found.person_key, 'module_ct_cabinet_leads', found.lead_id, now(), 'phone_exact', 97, 'HIGH'
FROM unnest(%(lead_ids)s::text[], %(person_keys)s::uuid[]) AS found (lead_id, person_key)
"""
STATEMENTS: dict[FoundBy, LiteralString] = {"job": MATCH_BY_JOB, "link": MATCH_BY_LINK}


@dataclass(frozen=True)
class Match:
    """Leads that the engine matches in one statement, all in the same way, at a moment of the monotonic clock."""

    due: float
    found_by: FoundBy
    leads: Sequence[Lead]

    def commit(self, connection: psycopg.Connection[Any]) -> None:
        """Write it as an engine would; `connection` is in autocommit."""
        parameters = {
            "lead_ids": [lead.lead_id for lead in self.leads],
            "person_keys": [lead.person.key for lead in self.leads],
        }
        connection.execute(STATEMENTS[self.found_by], parameters)


def plan(unfound: Sequence[Lead], until: float) -> Iterator[Match]:
    """Yield eight matches a second, every 32nd a burst of thirty leads, until the moment or the last lead.

    Each is due a pause after the one before it was done with: what was late is not made up for.
    """
    waiting = {way: [lead for lead in unfound if lead.found_by == way] for way in STATEMENTS}
    for step in itertools.count(1):
        due = time.monotonic() + PAUSE_SECONDS
        found_by: FoundBy = "job" if step % 5 % 2 == 0 else "link"
        size = BURST if step % BURST_EVERY == 0 else 1
        leads, waiting[found_by] = waiting[found_by][:size], waiting[found_by][size:]
        if due >= until or not leads:
            return
        yield Match(due, found_by, leads)


class ConsumerFailed(Exception):
    """The consumer ended by itself, or did not end as it should; the text ends with the last line of its log."""


@dataclass(frozen=True)
class Answer:
    """What the consumer's log says became of a lead."""

    at: datetime
    lead_id: str
    outcome: str
    found_by: FoundBy
    lag_ms: float | None  # None where no event told of the match


@dataclass(frozen=True)
class Tally:
    """What the engine matched live, what the consumer made of it, and what it found at its start."""

    matched: int
    live: Sequence[Answer]
    recovered_at_start: int

    @classmethod
    def of(cls, matched: set[str], answers: Sequence[Answer]) -> "Tally":
        """Count the first answer to each lead."""
        first: dict[str, Answer] = {}
        for answer in list(answers):
            first.setdefault(answer.lead_id, answer)
        live = [answer for answer in first.values() if answer.lead_id in matched]
        earlier = [answer for answer in first.values() if answer.lead_id not in matched]
        return cls(len(matched), live, sum(answer.outcome == RECOVERED for answer in earlier))

    @property
    def lags_ms(self) -> Sequence[float]:
        return [one.lag_ms for one in self.live if one.outcome == RECOVERED and one.lag_ms is not None]

    @property
    def recovered(self) -> int:
        return sum(answer.outcome == RECOVERED for answer in self.live)

    @property
    def others(self) -> Mapping[str, int]:
        return Counter(answer.outcome for answer in self.live if answer.outcome != RECOVERED)

    def __str__(self) -> str:
        others = sum(self.others.values())
        live = f"matched {self.matched}, recovered {self.recovered}, left alone {others}"
        return f"{live}; at start {self.recovered_at_start}"

    @property
    def unanswered(self) -> int:
        return self.matched - len(self.live)

    @property
    def lag(self) -> str:
        if not self.lags_ms:
            return "-"
        return f"median {median(self.lags_ms):.1f} ms, worst {max(self.lags_ms):.1f} ms"


class ConsumerProcess:
    """`consumer run` as a child process, with settings of its own; its log is read as it comes.

    `answers` only ever grows, in the order of the log.
    """

    def __init__(self, database_url: str) -> None:
        self.answers: list[Answer] = []
        self._last_line = ""
        self._listening = False
        self._ended = False
        self._changed = threading.Condition()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "consumer", "run"],
            # -m looks here first: elsewhere may be a host's package of that name.
            cwd=Path(consumer.__file__).parents[1],
            env=_environment(database_url),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            process_group=0,  # Ctrl-C is for the demo, which then ends it
        )
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()

    def wait_until_listening(self) -> None:
        if not self._wait_for(lambda: self._listening, PATIENCE_SECONDS):
            raise self._failure(f"did not listen within {PATIENCE_SECONDS:.0f} s")

    def wait_for_answers(self, lead_ids: set[str], seconds: float) -> None:
        """Wait until the log tells of all of them, or for so long."""
        self._wait_for(lambda: lead_ids <= {answer.lead_id for answer in list(self.answers)}, seconds)

    def pause_until(self, moment: float) -> None:
        """Wait for the moment; raises ConsumerFailed as soon as the consumer ends."""
        self._wait_for(lambda: False, moment - time.monotonic())

    def follow(self) -> Iterator[Answer]:
        """Yield the answers that come after this call; raises ConsumerFailed when the consumer ends."""
        return map(self._await_answer, itertools.count(len(self.answers)))

    def stop(self) -> None:
        """End it as an operator does, by SIGTERM; raises ConsumerFailed unless it then exits with 0."""
        self._process.terminate()
        try:
            status = self._process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            raise self._failure(f"did not end within {PATIENCE_SECONDS:.0f} s of SIGTERM") from None
        if status != 0:
            raise self._failure(f"exited with {status} on SIGTERM")

    def close(self) -> None:
        """See it gone, whatever it takes; may be repeated."""
        self._process.terminate()
        try:
            self._process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()

    def _await_answer(self, number: int) -> Answer:
        self._wait_for(lambda: len(self.answers) > number)
        return self.answers[number]

    def _wait_for(self, condition: Callable[[], bool], seconds: float | None = None) -> bool:
        with self._changed:
            met = self._changed.wait_for(lambda: self._ended or condition(), seconds)
        if self._ended:
            raise self._failure(f"ended by itself, with status {self._process.wait()}")
        return met

    def _failure(self, what: str) -> ConsumerFailed:
        return ConsumerFailed(f"the consumer {what}; its log ends: {self._last_line or 'empty'}")

    def _read_log(self) -> None:
        assert self._process.stderr is not None  # noqa: S101 # Popen was given a pipe
        with self._process.stderr as log:
            for line in log:
                self._take_in(line.strip())
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _take_in(self, line: str) -> None:
        event = _event(line)
        with self._changed:
            self._last_line = line or self._last_line
            self._listening = self._listening or event["event"] == "listener.listening"
            if answer := _answer(event):
                self.answers.append(answer)
            self._changed.notify_all()


def _event(line: str) -> dict[str, Any]:
    if line.startswith("{"):
        with suppress(ValueError):
            return {"event": "", **json.loads(line)}
    return {"event": ""}  # a traceback


def _answer(event: dict[str, Any]) -> Answer | None:
    subject, _, outcome = event["event"].partition(".")
    if subject != "lead" or outcome in {"failed", "parked"}:
        return None
    # Whoever was matched by a job has the link from us.
    found_by: FoundBy = "job" if event["link"] else "link"
    at = datetime.fromisoformat(event["timestamp"]).astimezone()
    return Answer(at, event["lead_id"], outcome, found_by, event["lag_ms"])


def _environment(database_url: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    # debug: at that level only do sweeps tell of single leads.
    own = {"DATABASE_URL": database_url, f"{PREFIX}LOG_FORMAT": "json", f"{PREFIX}LOG_LEVEL": "debug"}
    return inherited | own
