"""What became of a lead, and of many."""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, NamedTuple, Self, TypedDict


class Outcome(StrEnum):
    """What recovery came to, by the names that every log, table and answer uses."""

    RECOVERED = "recovered"
    UNCHANGED = "unchanged"
    NO_PERSON_KEY = "no_person_key"
    ORIGIN_MANUAL = "origin_manual"
    ORIGIN_HELD = "origin_held"
    UNKNOWN_LEAD = "unknown_lead"
    UNKNOWN_PERSON = "unknown_person"
    FAILED = "failed"


PROCESSED = frozenset({Outcome.RECOVERED, Outcome.UNCHANGED})
SKIPPED = frozenset({Outcome.NO_PERSON_KEY, Outcome.ORIGIN_MANUAL, Outcome.ORIGIN_HELD})
DONE = PROCESSED | SKIPPED


class Recovery(NamedTuple):
    """What became of one lead in one transaction.

    `link`, `origin` and `audit` name the writes that were made; `lag_ms` is the time since the lead's oldest event, by
    the server's clock, up to the commit; `retry_seconds` is a failed lead's wait, or None where it is parked.
    """

    lead_id: str
    outcome: Outcome
    reason: str
    link: Literal["create", "move"] | None = None
    origin: Literal["create", "update"] | None = None
    audit: Literal["create", "update"] | None = None
    method: str | None = None
    lag_ms: float | None = None
    retry_seconds: float | None = None


@dataclass(frozen=True)
class Batch:
    """What became of the leads that a handler was given.

    `busy` are the leads that another transaction holds, or that changed under our hands: their events still stand.
    A lead in neither list had nothing that is due: unknown, settled already, or waiting out an earlier failure.
    """

    recoveries: list[Recovery] = field(default_factory=list)
    busy: list[str] = field(default_factory=list)

    def __add__(self, other: "Batch") -> "Batch":
        return Batch(self.recoveries + other.recoveries, self.busy + other.busy)


class JobResult(TypedDict):
    """The nine keys that the hourly job returned."""

    processed: int
    links_created: int
    links_updated: int
    origins_created: int
    origins_updated: int
    audit_created: int
    audit_updated: int
    skipped: int
    errors: list[str]


@dataclass
class Summary:
    """The count of a run over many leads; `busy` are those that others held to its end, which stay pending."""

    outcomes: Counter[Outcome] = field(default_factory=Counter)
    writes: Counter[tuple[str, str]] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)
    busy: int = 0

    def add(self, recoveries: Collection[Recovery]) -> Self:
        self.outcomes.update(recovery.outcome for recovery in recoveries)
        self.writes.update(("link", recovery.link) for recovery in recoveries if recovery.link)
        self.writes.update(("origin", recovery.origin) for recovery in recoveries if recovery.origin)
        self.writes.update(("audit", recovery.audit) for recovery in recoveries if recovery.audit)
        self.errors += [f"{one.lead_id}: {one.outcome}: {one.reason}" for one in recoveries if one.outcome not in DONE]
        return self

    def as_job_result(self) -> JobResult:
        return JobResult(
            processed=sum(self.outcomes[outcome] for outcome in PROCESSED),
            links_created=self.writes["link", "create"],
            links_updated=self.writes["link", "move"],
            origins_created=self.writes["origin", "create"],
            origins_updated=self.writes["origin", "update"],
            audit_created=self.writes["audit", "create"],
            audit_updated=self.writes["audit", "update"],
            skipped=sum(self.outcomes[outcome] for outcome in SKIPPED),
            errors=self.errors,
        )
