"""The story of one lead: what happened to it in order, what is missing, and who can mend it."""

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from db import story as tables
from db.story import Facts, read_impact_of, read_many, read_one

_REFUSED = "the database refused its data (SQLSTATE {sqlstate})"
VERDICTS = {
    "no_lead": "There is no lead with this lead_id: it is the lead's external_id or, where it has none, its id.",
    "waits_for_lead": (
        "There is no lead with this lead_id yet, but a match that names it: whoever loads the leads has to add it, and "
        "the next sweep recovers it."
    ),
    "failed": (
        f"It is not recovered: {_REFUSED}; whoever owns them has to mend them, and it is tried again by itself."
    ),
    "parked": (
        f"It was given up: {_REFUSED}; `consumer parked show` says more, whoever owns the data has to mend them, and "
        "an operator to run `consumer parked retry`."
    ),
    "due": "It is matched and about to be recovered: the daemon or `consumer sweep` does it.",
    "no_claim": "Link and origin stand, nothing is missing here; the claim comes with the driver's trips.",
    "complete": "Link, origin and claim stand: nothing is missing.",
    "no_person_key": "It is not recovered: {reason}; the matching engine has to find its person.",
    "unknown_person": (
        "It is not recovered: {reason}; whoever keeps canon.identity_registry has to add the person whom its match "
        "names."
    ),
    "origin_manual": "It is not recovered: {reason}; whoever decided the origin by hand has to change it.",
    "origin_held": (
        "It is not recovered: {reason}; nothing is to be mended: a person has one origin, and it came from the other "
        "lead."
    ),
}


@dataclass(frozen=True)
class Story:
    """What the tables say of a lead. `lead` is None where there is no such lead, and other parts where they are not.

    Keys, dates, rules and outcomes only: no name, phone or plate, and nobody's free text.
    """

    lead_id: str
    lead: Facts | None
    job: Facts | None
    link: Facts | None
    decision: Facts | None
    origin: Facts | None
    origin_history: Sequence[Facts]
    events: Sequence[Facts]
    audit: Facts | None
    exception: Facts | None
    impact: Facts | None

    @property
    def verdict(self) -> str:
        """What is missing and who can mend it, in one sentence."""
        return VERDICTS[self.state].format(**self.particulars)

    @property
    def particulars(self) -> dict[str, str | None]:
        """What the sentences of a state name."""
        return {"sqlstate": (self.exception or {}).get("sqlstate"), "reason": (self.decision or {}).get("reason")}

    @property
    def state(self) -> str:
        """Where the lead stands, as one of VERDICTS."""
        if self.decision is None:
            return "waits_for_lead" if self._is_waited_for else "no_lead"
        if self._is_unresolved("failed"):
            return "failed" if (self.exception or {})["parked_at"] is None else "parked"
        if self.decision["link_action"] or self.decision["origin_action"]:
            return "due"
        if self.decision["outcome"] == "unchanged":
            return "no_claim" if self.impact is not None and not self.impact["has_claim"] else "complete"
        return str(self.decision["outcome"])

    def _is_unresolved(self, outcome: str) -> bool:
        found = self.exception
        return found is not None and found["resolved_at"] is None and found["outcome"] == outcome

    @property
    def _is_waited_for(self) -> bool:
        return any((self.job, self.link, self.events)) or self._is_unresolved("unknown_lead")


def read_story(engine: sa.Engine, lead_id: str) -> Story:
    """Read the story as of one moment; raises sqlalchemy.exc.DBAPIError. It writes nothing."""
    with engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
        connection.execute(tables.SET_UP)

        def one(query: sa.TextClause) -> Facts | None:
            return read_one(connection, query, lead_id=lead_id)

        decision = one(tables.DECISION)
        person = decision and decision["person_key"]
        return Story(
            lead_id=lead_id,
            lead=one(tables.LEAD),
            job=one(tables.JOB),
            link=one(tables.LINK),
            decision=decision,
            origin=read_one(connection, tables.ORIGIN, person_key=person),
            origin_history=read_many(connection, tables.HISTORY, person_key=person),
            events=read_many(connection, tables.EVENTS, lead_id=lead_id),
            audit=one(tables.AUDIT),
            exception=one(tables.EXCEPTION),
            impact=read_impact_of(connection, lead_id),
        )
