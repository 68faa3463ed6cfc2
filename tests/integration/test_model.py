"""Any history of matches, acts of the host and recoveries ends where the rules, as a short model, say that it ends."""

import asyncio
import sys
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from operator import attrgetter, itemgetter
from typing import Any, LiteralString
from uuid import UUID

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from consumer.connection import open_handler
from consumer.due import DueLead
from consumer.handlers.outcome import Batch, Recovery
from consumer.handlers.recover import Asked
from consumer.sweeper import in_batches, list_due, recover_batch
from db import listing
from tests.database import TABLES, Database
from tests.model import Audit, Lead, Link, Model, Noted, Origin, Result, Time

# Few of each, so that they meet. A lead without an external id goes by its number, which another lead's external id
# may claim as well.
NUMBERS = (1, 2, 3, 4)
EXTERNAL_IDS = (None, None, "1", "a")
LEAD_IDS = ("1", "2", "3", "4", "a")
PERSONS = tuple(UUID(int=number) for number in range(1, 4))
LATECOMER = PERSONS[-1]  # matched before the registry knows of it
# Equal dates, equal days, both sides of the window, and none.
TODAY = datetime.now().replace(hour=0, minute=0, second=0, microsecond=0)
DATES = (
    None,
    TODAY - timedelta(days=3),
    TODAY - timedelta(days=3) + timedelta(hours=9),
    TODAY - timedelta(days=6),
    TODAY - timedelta(days=25),
    TODAY - timedelta(days=50),
)
TAGS = ("cabinet_lead", "cabinet_lead", "scout_registration", "migration", "legacy_external")
STATUSES = (
    "pending_review",
    "resolved_auto",
    "resolved_auto",
    "resolved_auto",
    "resolved_auto",
    "resolved_auto",
    "resolved_manual",
    "marked_legacy",
    "discarded",
)

# Their versions tell that the service left them alone.
HOST_ROWS: LiteralString = """
SELECT 'lead' AS what, ctid::text, xmin::text FROM public.module_ct_cabinet_leads
UNION ALL SELECT 'person', ctid::text, xmin::text FROM canon.identity_registry
UNION ALL SELECT 'job', ctid::text, xmin::text FROM ops.identity_matching_jobs
ORDER BY 1, 2
"""
# What the model knows as well.
STATE: tuple[LiteralString, ...] = (
    "SELECT * FROM canon.identity_links WHERE source_table = 'module_ct_cabinet_leads'",
    "SELECT * FROM canon.identity_origin",
    """
    SELECT person_key, origin_tag_old, origin_source_id_old, origin_tag_new, origin_source_id_new
    FROM canon.identity_origin_history
    """,
    "SELECT * FROM ops.cabinet_lead_recovery_audit WHERE recovered_by = 'system'",
    'SELECT lead_id, source FROM ops.cabinet_recovery_outbox ORDER BY lead_id COLLATE "C", event_id',
    "SELECT lead_id, person_key_effective FROM ops.v_cabinet_lead_identity_effective",
    """
    SELECT lead_id, outcome, match_waits FROM ops.cabinet_recovery_exception
    WHERE (resolved_at IS NULL AND attempts = 0 AND parked_at IS NULL) OR match_waits
    """,
)

lead_ids = st.sampled_from(LEAD_IDS)
persons = st.sampled_from(PERSONS)
external_ids = st.sampled_from(EXTERNAL_IDS)
dates = st.sampled_from(DATES)
# When the service hears of a match; the triggers did not see those of which it never does.
heard = st.sampled_from(("later", "later", "at once", "never"))
origins = st.tuples(
    st.sampled_from(TAGS),
    st.sampled_from((*LEAD_IDS, "gone")),
    st.sampled_from(("system", "system", "system", "system", "manual")),
    st.sampled_from(STATUSES),
)
mostly = st.sampled_from((True, True, True, True, False))
batch_sizes = st.sampled_from((1, 2, 500))


def known(*attributes: str) -> st.SearchStrategy[tuple[str, Any]]:
    """One of what the model at hand has of these, and of which it is."""
    return st.runner().flatmap(
        lambda machine: st.sampled_from([(name, key) for name in attributes for key in getattr(machine.model, name)])
    )


class Server:
    """The database and the handler that all examples share, each from empty tables."""

    def __init__(self, database: Database) -> None:
        self.database = database
        database.give_batches_time()  # the model knows nothing of batches that were cut in two
        self._runner = asyncio.Runner()
        self.handler = self._runner.run(open_handler(database.settings(lock_timeout_ms="900"), "model"))
        database.without_foreign_keys()
        self.recover(LEAD_IDS)  # plans its statements, for which a batch hardly has the time
        database.run("UPDATE ops.cabinet_recovery_settings SET business_time_zone = 'America/Lima'")

    def close(self) -> None:
        self._runner.run(self.handler.connection.close())
        self._runner.close()

    def clear(self) -> None:
        """Leave no row but such as must not concern recovery: other sources' matches under our leads' ids."""
        with self.database.connection.pipeline(), self.database.connection.transaction():
            for table in TABLES:
                if table != "ops.cabinet_recovery_settings":
                    self.database.run(f"DELETE FROM {table}")
            for lead_id in LEAD_IDS:
                self.database.run(
                    "INSERT INTO canon.identity_links (person_key, source_table, source_pk, snapshot_date, match_rule, "
                    "match_score, confidence_level) VALUES (%s, 'module_ct_scouting', %s, now(), 'any', 1, 'LOW')",
                    PERSONS[0],
                    lead_id,
                )
                self.database.run(
                    "INSERT INTO ops.identity_matching_jobs (source_type, source_id, status, matched_person_key) "
                    "VALUES ('scouting', %s, 'matched', %s)",
                    lead_id,
                    PERSONS[0],
                )

    def recover(self, lead_ids: Sequence[str], asked: Asked | None = None) -> Batch:
        return self._runner.run(self.handler.recover(lead_ids, asked))

    def list_due(self, statement: LiteralString, **parameters: int | str | None) -> list[DueLead]:
        return list(self._runner.run(list_due(self.handler, statement, **parameters)))

    def recover_batch(self, leads: Sequence[DueLead]) -> Batch:
        return self._runner.run(recover_batch(self.handler, leads))


class RecoveryMachine(RuleBasedStateMachine):
    """The host, its engine, and the service, one transaction at a time; the model is told of each."""

    def __init__(self, server: Server) -> None:
        super().__init__()
        self.server = server
        self.database = server.database
        self.model = Model()
        self.clock: list[datetime] = []  # when each transaction of the model's numbering began, at the earliest
        self.server.clear()

    # What the host and its engine do.

    @initialize(
        leads=st.tuples(*[st.tuples(mostly, external_ids, dates)] * len(NUMBERS)),
        links=st.tuples(*[st.none() | persons] * len(LEAD_IDS)),
        jobs=st.tuples(*[st.none() | persons] * len(LEAD_IDS)),
        origins=st.tuples(*[st.none() | origins] * len(PERSONS)),
    )
    def the_service_comes_to_a_host_with_a_past(
        self,
        leads: Sequence[tuple[bool, str | None, datetime | None]],
        links: Sequence[UUID | None],
        jobs: Sequence[UUID | None],
        origins: Sequence[tuple[str, str, str, str] | None],
    ) -> None:
        for number, (is_there, external_id, created_at) in zip(NUMBERS, leads, strict=True):
            if is_there:
                self._add_lead(Lead(number, external_id, created_at))
        for lead_id, linked, matched in zip(LEAD_IDS, links, jobs, strict=True):
            if linked:
                self._write_link(lead_id, linked, ("phone_exact", 80), "never")
            if matched:
                self._end_jobs([lead_id], "matched", matched, "never")
        for person, origin in zip(PERSONS, origins, strict=True):
            if person != LATECOMER:
                self._register(person)
            if origin:
                self._write_origin(person, origin)

    @precondition(lambda self: len(self.model.leads) < len(NUMBERS))
    @rule(external_id=external_ids, created_at=dates)
    def a_lead_arrives(self, external_id: str | None, created_at: datetime | None) -> None:
        self._add_lead(Lead(min(set(NUMBERS) - set(self.model.leads)), external_id, created_at))

    @precondition(lambda self: LATECOMER not in self.model.persons)
    @rule()
    def the_latecomer_is_registered(self) -> None:
        self._register(LATECOMER)

    @rule(matched=st.lists(lead_ids, min_size=1, max_size=4, unique=True), person=persons, heard=heard)
    def jobs_are_matched(self, matched: list[str], person: UUID, heard: str) -> None:
        self._end_jobs(matched, "matched", person, heard)

    @precondition(lambda self: self.model.links)
    @rule(of=known("links"), person=persons, heard=heard)
    def a_linked_lead_is_matched_anew(self, of: tuple[str, str], person: UUID, heard: str) -> None:
        self._end_jobs([of[1]], "matched", person, heard)

    @rule(lead_id=lead_ids, person=persons, by=st.sampled_from((("phone_exact", 90), ("by_hand", 100))), heard=heard)
    def a_link_is_written_or_mended(self, lead_id: str, person: UUID, by: tuple[str, int], heard: str) -> None:
        self._write_link(lead_id, person, by, heard)

    @rule(person=persons, origin=origins)
    def an_origin_is_decided(self, person: UUID, origin: tuple[str, str, str, str]) -> None:
        self._write_origin(person, origin)

    @precondition(lambda self: self.model.jobs or self.model.links or self.model.leads)
    @rule(
        of=known("jobs", "links", "leads"),
        end=st.sampled_from((("pending", PERSONS[0]), ("failed", None), ("matched", None))),
    )
    def something_is_taken_back(self, of: tuple[str, Any], end: tuple[str, UUID | None]) -> None:
        what, key = of
        if what == "jobs":
            self._end_jobs([key], *end, "later")
            return
        self._begin()
        if what == "links":
            self.database.run(
                "DELETE FROM canon.identity_links WHERE source_table = 'module_ct_cabinet_leads' AND source_pk = %s",
                key,
            )
            del self.model.links[key]
        else:
            self.database.run("DELETE FROM public.module_ct_cabinet_leads WHERE id = %s", key)
            del self.model.leads[key]

    # What the service does.

    @precondition(lambda self: self.model.events)
    @rule(hints=st.lists(st.sampled_from((*LEAD_IDS, "unknown")), min_size=3, max_size=10))
    def notifications_come_in(self, hints: list[str]) -> None:
        self._notify(hints)

    @rule(names=st.lists(lead_ids, min_size=2, max_size=5))
    def an_operator_reprocesses(self, names: list[str]) -> None:
        there = [name for name in dict.fromkeys(names) if self.model.lead(name) or self.model.has_event(name)]
        self._serve(there, lambda: self.server.recover(names, Asked.BY_OPERATOR))

    @rule(what=st.sampled_from(("everything", "events", "waiting")), size=batch_sizes)
    def a_sweep_is_made(self, what: str, size: int) -> None:
        self._sweep(what, size)

    # What must hold.

    def the_database_equals_the_model(self) -> None:
        connection, model = self.database.connection, self.model
        with connection.pipeline():
            cursors = [connection.execute(statement) for statement in STATE]
        links, origins, history, audits, events, effective, exceptions = (cursor.fetchall() for cursor in cursors)
        assert {row["source_pk"]: self._link(row) for row in links} == model.links
        assert {row["person_key"]: self._origin(row) for row in origins} == model.origins
        assert sorted(tuple(row.values()) for row in history) == sorted(model.history)
        assert {row["lead_id"]: self._audit(row) for row in audits} == model.audits
        assert [tuple(row.values()) for row in events] == sorted(model.events, key=itemgetter(0))
        assert {row["lead_id"]: row["person_key_effective"] for row in effective} == model.effective_persons()
        assert {row["lead_id"]: Noted(row["outcome"], row["match_waits"]) for row in exceptions} == model.notes

    def teardown(self) -> None:
        # A step that failed has said it already.
        if sys.exc_info()[0] is None:
            self.in_the_end_a_sweep_finds_and_writes_nothing()

    def in_the_end_a_sweep_finds_and_writes_nothing(self) -> None:
        # The first may move a link, which frees an origin for a lead of the second; that moves nothing any more.
        self._sweep("everything", 2)
        self._sweep("everything", 2)
        self.the_database_equals_the_model()
        before = self.database.row_versions()
        assert self._sweep("everything", 500) == []
        assert self.database.row_versions() == before

    # The hands of all that.

    def _add_lead(self, lead: Lead) -> None:
        if lead.external_id and lead.external_id in {other.external_id for other in self.model.leads.values()}:
            return
        self._begin()
        self.database.run(
            "INSERT INTO public.module_ct_cabinet_leads (id, external_id, lead_created_at) VALUES (%s, %s, %s)",
            lead.pk,
            lead.external_id,
            lead.created_at,
        )
        self.model.leads[lead.pk] = lead

    def _register(self, person: UUID) -> None:
        self._begin()
        self.database.register(person)
        self.model.persons.add(person)

    def _end_jobs(self, lead_ids: list[str], status: str, person: UUID | None, heard: str) -> None:
        with self._match(lead_ids, heard):
            for lead_id in lead_ids:
                self.model.end_job(lead_id, person if status == "matched" else None)
            self.database.run(
                "INSERT INTO ops.identity_matching_jobs (id, source_type, source_id, status, matched_person_key) "
                "SELECT id, 'cabinet', lead_id, %s, %s FROM unnest(%s::bigint[], %s::text[]) AS job (id, lead_id) "
                "ON CONFLICT (source_type, source_id) DO UPDATE SET status = EXCLUDED.status, "
                "matched_person_key = EXCLUDED.matched_person_key, updated_at = now()",
                status,
                person,
                [self.model.job_ids[lead_id] for lead_id in lead_ids],
                lead_ids,
            )

    def _write_link(self, lead_id: str, person: UUID, by: tuple[str, int], heard: str) -> None:
        with self._match([lead_id], heard):
            self.model.write_link(lead_id, person, *by)
            self.database.run(
                "INSERT INTO canon.identity_links AS link (person_key, source_table, source_pk, snapshot_date, "
                "match_rule, match_score, confidence_level, evidence) "
                "VALUES (%s, 'module_ct_cabinet_leads', %s, now(), %s, %s, 'MEDIUM', '{\"by\": \"host\"}') "
                "ON CONFLICT (source_table, source_pk) DO UPDATE SET person_key = EXCLUDED.person_key, "
                "match_rule = EXCLUDED.match_rule, match_score = EXCLUDED.match_score, linked_at = now()",
                person,
                lead_id,
                *by,
            )

    def _write_origin(self, person: UUID, origin: tuple[str, str, str, str]) -> None:
        if person not in self.model.persons:
            return  # the foreign key stands
        self._begin()
        self.model.write_origin(person, Origin(*origin, 80, created_at=self.model.now, decided_at=self.model.now))
        self.database.run(
            "INSERT INTO canon.identity_origin (person_key, origin_tag, origin_source_id, decided_by, "
            "resolution_status, origin_confidence, origin_created_at) VALUES (%s, %s, %s, %s, %s, 80, now()) "
            "ON CONFLICT (person_key) DO UPDATE SET origin_tag = EXCLUDED.origin_tag, origin_confidence = 80, "
            "origin_source_id = EXCLUDED.origin_source_id, origin_created_at = now(), decided_at = now(), "
            "decided_by = EXCLUDED.decided_by, resolution_status = EXCLUDED.resolution_status",
            person,
            *origin,
        )

    def _begin(self) -> None:
        self.clock.append(self.database.value("SELECT clock_timestamp()"))
        self.model.now = len(self.clock)

    @contextmanager
    def _match(self, lead_ids: list[str], heard: str) -> Iterator[None]:
        """A transaction of the engine, of which the service hears at once, later or never."""
        self._begin()
        pending = list(self.model.events)
        with self.database.connection.transaction():
            yield
            if heard == "never":
                self.database.run("DELETE FROM ops.cabinet_recovery_outbox WHERE requested_at >= %s", self.clock[-1])
                self.model.events = pending
        if heard == "at once":
            self._notify(lead_ids)

    def _notify(self, hints: list[str]) -> None:
        eventful = [lead_id for lead_id in dict.fromkeys(hints) if self.model.has_event(lead_id)]
        self._serve(eventful, lambda: self.server.recover(hints))

    def _sweep(self, what: str, size: int) -> list[DueLead]:
        leads = self._lists()[what]
        self._recover_listed(leads, size)
        return leads

    def _lists(self) -> dict[str, list[DueLead]]:
        due = self.model.due(datetime.now(UTC))
        eventful = {lead_id for lead_id, _ in self.model.events}
        waiting = {x for x, noted in self.model.notes.items() if noted.is_waiting}
        expected = {
            "everything": due,
            "events": [lead_id for lead_id in due if lead_id in eventful],
            "waiting": sorted(lead_id for lead_id in due if lead_id in waiting - eventful),
        }
        lists = {
            "everything": self.server.list_due(listing.LIST_ALL, limit=100),
            "events": self.server.list_due(listing.LIST_PENDING, limit=100),
            "waiting": sorted(
                self.server.list_due(listing.LIST_WAITING, after=None, slice_end="zzz"), key=attrgetter("lead_id")
            ),
        }
        assert {what: [lead.lead_id for lead in leads] for what, leads in lists.items()} == expected
        return lists

    def _recover_listed(self, leads: Sequence[DueLead], size: int) -> None:
        for part in in_batches(leads, size):
            still_due = [x.lead_id for x in part if self.model.has_event(x.lead_id) or self.model.is_due(x.lead_id)]
            self._serve(still_due, lambda part=part: self.server.recover_batch(part))

    def _serve(self, expected: Sequence[str], work: Callable[[], Batch]) -> None:
        """Have the service and the model do the same, and compare what they say came of it."""
        self._begin()
        host_rows = self._host_rows()
        batch = work()
        assert self._host_rows() == host_rows, "what is the host's alone was written"
        assert batch.busy == []
        assert {one.lead_id: _result(one) for one in batch.recoveries} == self.model.recover(expected)
        self.the_database_equals_the_model()

    def _host_rows(self) -> list[dict[str, Any]]:
        return self.database.run(HOST_ROWS)

    def _tick(self, timestamp: datetime) -> Time:
        """The number of the transaction that wrote this time, unless the host gave it."""
        return bisect_right(self.clock, timestamp) or timestamp

    def _link(self, row: dict[str, Any]) -> Link:
        evidence = dict(row["evidence"])
        previous = evidence.pop("previous", None)
        return Link(
            row["person_key"],
            row["match_rule"],
            row["match_score"],
            row["confidence_level"],
            self._tick(row["linked_at"]),
            evidence,
            snapshot_at=self._tick(row["snapshot_date"]),
            previous=previous and self._previous_link(previous),
        )

    def _previous_link(self, previous: dict[str, Any]) -> Link:
        return Link(
            UUID(previous["person_key"]),
            previous["match_rule"],
            previous["match_score"],
            previous["confidence_level"],
            self._tick(datetime.fromisoformat(previous["linked_at"])),
            previous["evidence"],
        )

    def _origin(self, row: dict[str, Any]) -> Origin:
        return Origin(
            row["origin_tag"],
            row["origin_source_id"],
            row["decided_by"],
            row["resolution_status"],
            row["origin_confidence"],
            self._tick(row["origin_created_at"]),
            self._tick(row["decided_at"]),
        )

    def _audit(self, row: dict[str, Any]) -> Audit:
        return Audit(
            row["recovered_person_key"],
            row["recovery_method"],
            self._tick(row["first_recovered_at"]),
            self._tick(row["last_recovered_at"]),
        )


def _result(recovery: Recovery) -> Result:
    return Result(str(recovery.outcome), recovery.link, recovery.origin, recovery.audit, recovery.method)


@pytest.fixture
def server(database: Database) -> Iterator[Server]:
    with closing(Server(database)) as server:
        yield server


SETTINGS = settings(
    deadline=None,
    print_blob=True,
    stateful_step_count=30,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)


# Where they fail, making the history short may take five minutes.
@pytest.mark.timeout(600)
def test_every_history_ends_as_the_rules_say(server: Server) -> None:
    run_state_machine_as_test(lambda: RecoveryMachine(server), settings=settings(SETTINGS, max_examples=50))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_very_many_and_longer_histories_end_as_the_rules_say(server: Server) -> None:
    run_state_machine_as_test(
        lambda: RecoveryMachine(server), settings=settings(SETTINGS, max_examples=150, stateful_step_count=50)
    )
