"""The dry run: what a sweep, or a reprocessing, would do."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import sqlalchemy as sa

from db.rehearsal import DUE, NAMED, SET_UP


@dataclass(frozen=True)
class Planned:
    """What would become of a lead, by the rules as they see the tables now, and what would be written for it."""

    lead_id: str
    outcome: str
    reason: str
    person_key: str | None = None
    method: str | None = None
    link: Literal["create", "move"] | None = None
    origin: Literal["create", "update"] | None = None
    audit: Literal["create", "update"] | None = None


def plan_sweep(engine: sa.Engine, limit: int) -> list[Planned]:
    """The leads that a sweep would work now, in its order; reads only, in a transaction that could not write."""
    return list(_planned(engine, DUE, limit=limit))


def plan_reprocess(engine: sa.Engine, lead_ids: Sequence[str]) -> list[Planned]:
    """The leads by name, in their order, whatever became of them before; reads only, as above."""
    found = {one.lead_id: one for one in _planned(engine, NAMED, lead_ids=list(lead_ids))}
    unknown = "there is no lead with this lead_id (COALESCE(external_id, id))"
    return [found.get(lead_id) or Planned(lead_id, "unknown_lead", unknown) for lead_id in dict.fromkeys(lead_ids)]


def _planned(engine: sa.Engine, query: sa.TextClause, **parameters: object) -> Iterator[Planned]:
    with engine.connect() as connection:
        connection.execute(SET_UP)
        for row in connection.execute(query, parameters):
            lead_id, outcome, reason, person_key, method, link, origin, audit = row
            yield Planned(lead_id, outcome, reason, person_key, method, link, origin, audit)
