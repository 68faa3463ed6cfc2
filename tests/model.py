"""The rules of recovery (§2 of the design) in plain Python: what the database must hold after any history."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

JOB, LINK = "matching_job", "identity_link"
LIMA = timezone(timedelta(hours=-5), "America/Lima")

# A time is an instant that the host gave, or the number of the transaction that wrote it.
Time = datetime | int


@dataclass(frozen=True)
class Lead:
    pk: int
    external_id: str | None
    created_at: datetime | None  # of no zone, as in the host's table

    @property
    def lead_id(self) -> str:
        return self.external_id or str(self.pk)

    @property
    def instant(self) -> datetime | None:
        return self.created_at and self.created_at.replace(tzinfo=LIMA)

    @property
    def window_end(self) -> datetime | None:
        midnight = self.created_at and self.created_at.replace(hour=0, minute=0, tzinfo=LIMA)
        return midnight and midnight + timedelta(days=14)


@dataclass(frozen=True)
class Link:
    person: UUID
    rule: str
    score: int
    confidence: str
    linked_at: Time
    evidence: dict[str, Any]
    snapshot_at: Time | None = None
    previous: "Link | None" = None

    def remembered(self) -> "Link":
        return replace(self, snapshot_at=None, previous=None)


@dataclass(frozen=True)
class Origin:
    tag: str
    source: str
    decided_by: str
    status: str
    confidence: int
    created_at: Time
    decided_at: Time

    @property
    def is_by_hand(self) -> bool:
        return self.decided_by == "manual" or self.status in ("resolved_manual", "discarded", "marked_legacy")


@dataclass(frozen=True)
class Audit:
    person: UUID
    method: str
    first_at: Time
    last_at: Time


@dataclass(frozen=True)
class Noted:
    """An exception that stands: why the lead is not done, and whether a new match waits for its lead or person."""

    outcome: str
    match_waits: bool

    @property
    def is_waiting(self) -> bool:
        """For what no event tells of: its lead, its person, or that the lead which has the origin leaves it."""
        return self.outcome in ("unknown_lead", "unknown_person", "origin_held")


@dataclass(frozen=True)
class Decision:
    """What a lead comes to: `verdict` is what becomes of the origin, or why nothing does."""

    verdict: str
    person: UUID | None = None
    link: str | None = None
    match_waits: bool = False

    @property
    def writes_origin(self) -> bool:
        return self.verdict in ("create", "update")

    @property
    def outcome(self) -> str:
        return "recovered" if self.writes_origin or (self.verdict == "unchanged" and self.link) else self.verdict

    @property
    def noted(self) -> Noted | None:
        if self.match_waits and self.verdict != "unknown_lead":
            return Noted("unknown_person", match_waits=True)
        return None if self.outcome in ("recovered", "unchanged") else Noted(self.outcome, self.match_waits)


@dataclass(frozen=True)
class Result:
    """What the handler answers for a lead."""

    outcome: str
    link: str | None
    origin: str | None
    audit: str | None
    method: str | None


@dataclass
class Model:
    leads: dict[int, Lead] = field(default_factory=dict)
    persons: set[UUID] = field(default_factory=set)
    jobs: dict[str, UUID | None] = field(default_factory=dict)  # the person, where the job is matched
    job_ids: dict[str, int] = field(default_factory=dict)
    links: dict[str, Link] = field(default_factory=dict)
    origins: dict[UUID, Origin] = field(default_factory=dict)
    history: list[tuple[UUID, str, str, str, str]] = field(default_factory=list)
    audits: dict[str, Audit] = field(default_factory=dict)
    events: list[tuple[str, str]] = field(default_factory=list)
    notes: dict[str, Noted] = field(default_factory=dict)
    now: int = 0

    # What the host and its engine do.

    def end_job(self, lead_id: str, person: UUID | None) -> None:
        if person is not None and person != self.jobs.get(lead_id):
            self.events.append((lead_id, JOB))
        self.jobs[lead_id] = person
        self.job_ids.setdefault(lead_id, len(self.job_ids) + 1)

    def write_link(self, lead_id: str, person: UUID, rule: str, score: int) -> None:
        link = self.links.get(lead_id) or Link(person, rule, score, "MEDIUM", self.now, {"by": "host"}, self.now)
        if lead_id not in self.links or person != link.person:
            self.events.append((lead_id, LINK))
        self.links[lead_id] = replace(link, person=person, rule=rule, score=score, linked_at=self.now)

    def write_origin(self, person: UUID, origin: Origin) -> None:
        old = self.origins.get(person)
        if old is not None:
            self.history.append((person, old.tag, old.source, origin.tag, origin.source))
        self.origins[person] = origin

    # Who a lead is.

    def lead(self, lead_id: str) -> Lead | None:
        claimants = [lead for lead in self.leads.values() if lead.lead_id == lead_id]
        return min(claimants, key=lambda lead: lead.external_id is None, default=None)

    def known(self, person: UUID | None) -> UUID | None:
        return person if person in self.persons else None

    def effective_persons(self) -> dict[str, UUID | None]:
        return {lead.lead_id: self.effective_person(lead.lead_id) for lead in self.leads.values()}

    def effective_person(self, lead_id: str) -> UUID | None:
        if self.lead(lead_id) is None:
            return None
        return self.known(self.links[lead_id].person if lead_id in self.links else self.jobs.get(lead_id))

    def has_event(self, lead_id: str) -> bool:
        return any(lead_id == of for of, _ in self.events)

    def is_matched_anew(self, lead_id: str) -> bool:
        """The job counts over the link: it is the newest match that we heard of, or has waited since it was."""
        sources = [source for of, source in self.events if of == lead_id]
        return sources[-1] == JOB if sources else lead_id in self.notes and self.notes[lead_id].match_waits

    # The rules.

    def decide(self, lead_id: str) -> Decision:
        anew, link, job = self.is_matched_anew(lead_id), self.links.get(lead_id), self.jobs.get(lead_id)
        if self.lead(lead_id) is None:
            return Decision("unknown_lead", match_waits=anew)
        if link is None:
            return self._judge(lead_id, self.known(job), link="create" if self.known(job) else None)
        if anew and job is not None and job != link.person:
            if self.known(job):
                return self._judge(lead_id, job, link="move")
            return self._judge(lead_id, self.known(link.person), match_waits=True)
        return self._judge(lead_id, self.known(link.person))

    def _judge(
        self, lead_id: str, person: UUID | None, *, link: str | None = None, match_waits: bool = False
    ) -> Decision:
        return Decision(self._verdict(lead_id, person), person, link, match_waits)

    def _verdict(self, lead_id: str, person: UUID | None) -> str:
        if person is None:
            return "unknown_person" if lead_id in self.links or self.jobs.get(lead_id) else "no_person_key"
        origin = self.origins.get(person)
        if origin is None:
            return "create"
        if (origin.tag, origin.source) == ("cabinet_lead", lead_id):
            return "unchanged"
        if origin.is_by_hand:
            return "origin_manual"
        if origin.tag == "cabinet_lead" and self.effective_person(origin.source) == person:
            return "origin_held"
        return "update"

    def is_due(self, lead_id: str) -> bool:
        """Working it would write something, whether or not an event tells of it."""
        if self.lead(lead_id) is None:
            return False
        decision, noted = self.decide(lead_id), self.notes.get(lead_id)
        if decision.link or decision.writes_origin:
            return True
        return noted is not None and noted.outcome != (decision.noted and decision.noted.outcome)

    def due(self, now: datetime) -> list[str]:
        """What a sweep has to list, the most urgent first."""

        def urgency(lead_id: str) -> tuple[int, timedelta, str]:
            lead = self.lead(lead_id)
            if lead is None or lead.window_end is None:
                return 2, timedelta(0), lead_id
            return int(lead.window_end < now), abs(lead.window_end - now), lead_id

        lead_ids = {lead.lead_id for lead in self.leads.values()} | {lead_id for lead_id, _ in self.events}
        return sorted((x for x in lead_ids if self.has_event(x) or self.is_due(x)), key=urgency)

    def recover(self, lead_ids: Iterable[str]) -> dict[str, Result]:
        """Work a batch: decide on all of it by what stood before, then write."""
        decisions = {lead_id: self.decide(lead_id) for lead_id in lead_ids}
        self.events = [(lead_id, source) for lead_id, source in self.events if lead_id not in decisions]
        return {
            lead_id: self._carry_out(lead_id, self._after_rivals(lead_id, decision, decisions))
            for lead_id, decision in decisions.items()
        }

    def _after_rivals(self, lead_id: str, decision: Decision, decisions: dict[str, Decision]) -> Decision:
        """One person, one origin: the lead that has it keeps it, otherwise the earliest of the batch takes it."""
        if not decision.writes_origin:
            return decision
        rivals = {x: rival for x, rival in decisions.items() if rival.person == decision.person}
        holders = [x for x, rival in rivals.items() if rival.verdict == "unchanged"]
        takers = [x for x, rival in rivals.items() if rival.writes_origin]
        winner = holders[0] if holders else min(takers, key=self._age)
        return decision if winner == lead_id else replace(decision, verdict="origin_held")

    def _age(self, lead_id: str) -> tuple[bool, datetime, str]:
        lead = self.lead(lead_id)
        created_at = lead and lead.instant
        return created_at is None, created_at or datetime.min.replace(tzinfo=UTC), lead_id

    def _carry_out(self, lead_id: str, decision: Decision) -> Result:
        method = decision.person and (JOB if decision.link else LINK)
        audit = None
        if decision.link:
            self._write_our_link(lead_id)
        if decision.writes_origin:
            self._write_our_origin(lead_id, decision.person)
        if decision.outcome == "recovered":
            audit = "update" if lead_id in self.audits else "create"
            first_at = self.audits[lead_id].first_at if lead_id in self.audits else self.now
            self.audits[lead_id] = Audit(decision.person, method, first_at, self.now)
        self.notes.pop(lead_id, None)
        if decision.noted:
            self.notes[lead_id] = decision.noted
        origin = decision.verdict if decision.writes_origin else None
        return Result(decision.outcome, decision.link, origin, audit, method)

    def _write_our_link(self, lead_id: str) -> None:
        old, lead = self.links.get(lead_id), self.lead(lead_id)
        self.links[lead_id] = Link(
            person=self.jobs[lead_id],
            rule="cabinet_recovery",
            score=95,
            confidence="HIGH",
            linked_at=self.now,
            evidence={"job_id": self.job_ids[lead_id]},
            snapshot_at=old.snapshot_at if old else lead.instant or self.now,
            previous=old and old.remembered(),
        )

    def _write_our_origin(self, lead_id: str, person: UUID) -> None:
        created_at = self.lead(lead_id).instant or self.links[lead_id].linked_at
        self.write_origin(person, Origin("cabinet_lead", lead_id, "system", "resolved_auto", 95, created_at, self.now))
