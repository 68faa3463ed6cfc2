"""Questions that operators ask, answered from the tables and views."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from db.tables import decision, exception, identity, impact, pending


@dataclass(frozen=True)
class Status:
    """What stands now: leads pending and how old the oldest event is, what could not be done, and the impact."""

    pending_leads: int
    due_leads: int
    oldest_pending_seconds: float | None
    exceptions: dict[str, int]
    parked_leads: int
    impact_buckets: dict[str, int]


@dataclass(frozen=True)
class ParkedLead:
    """A lead that was given up, and what the database said of it last; `is_gone` where the host deleted it since."""

    lead_id: str
    parked_at: datetime
    first_seen_at: datetime
    attempts: int
    sqlstate: str | None
    message: str | None
    is_gone: bool


_IS_PARKED = sa.and_(exception.c.parked_at.is_not(None), exception.c.resolved_at.is_(None))


def list_parked(engine: sa.Engine, limit: int) -> list[ParkedLead]:
    """The parked leads, the latest first."""
    columns: list[sa.ColumnElement[Any]] = [
        exception.c[name] for name in ParkedLead.__dataclass_fields__ if name != "is_gone"
    ]
    # Each looked up by its key: LIMIT keeps the planner from looking at all leads at once.
    lead = sa.select(identity.c.lead_pk).where(identity.c.lead_id == exception.c.lead_id).limit(1).scalar_subquery()
    latest = (
        sa.select(*columns, lead.is_(None).label("is_gone"))
        .where(_IS_PARKED)
        .order_by(exception.c.parked_at.desc(), exception.c.lead_id)
    )
    with engine.connect() as connection:
        return [ParkedLead(**row) for row in connection.execute(latest.limit(limit)).mappings()]


def count_parked(engine: sa.Engine) -> int:
    with engine.connect() as connection:
        return connection.scalar(sa.select(sa.func.count()).where(_IS_PARKED)) or 0


def find_parked(engine: sa.Engine, among: Collection[str] | None = None) -> list[str]:
    """The lead ids that are parked, of those given or of all."""
    wanted = sa.true() if among is None else exception.c.lead_id.in_(among)
    found = sa.select(exception.c.lead_id).where(_IS_PARKED, wanted).order_by(exception.c.lead_id)
    with engine.connect() as connection:
        return list(connection.scalars(found))


def read_parked(engine: sa.Engine, lead_id: str) -> dict[str, Any] | None:
    """All that is known of a parked lead, with what would be done for it now; None where it is not parked."""
    now = [sa.func.coalesce(pending.c.events, 0).label("events"), decision.c.lead_created_at, decision.c.window_ends_at]
    now += [decision.c[name].label(f"{name}_now") for name in ("person_key", "link_action", "origin_action", "reason")]
    told = [column for column in exception.c if column.name not in {"resolved_at", "failed_events", "match_waits"}]
    joined = exception.outerjoin(decision, decision.c.lead_id == exception.c.lead_id).outerjoin(
        pending, pending.c.lead_id == exception.c.lead_id
    )
    query = sa.select(*told, *now).select_from(joined).where(_IS_PARKED, exception.c.lead_id == lead_id)
    with engine.connect() as connection:
        row = connection.execute(query).mappings().one_or_none()
    return None if row is None else dict(row)


def read_status(engine: sa.Engine) -> Status:
    age = sa.func.clock_timestamp() - sa.func.min(pending.c.requested_at)
    with engine.connect() as connection:
        leads = connection.execute(
            sa.select(
                sa.func.count().label("pending"),
                sa.func.count().filter(pending.c.is_due).label("due"),
                sa.cast(sa.extract("epoch", age), sa.Float).label("oldest_seconds"),
            )
        ).one()
        unresolved = exception.c.resolved_at.is_(None)
        return Status(
            pending_leads=leads.pending,
            due_leads=leads.due,
            oldest_pending_seconds=leads.oldest_seconds,
            exceptions=_counts(connection, exception.c.outcome, unresolved),
            parked_leads=connection.scalar(
                sa.select(sa.func.count()).where(unresolved, exception.c.parked_at.is_not(None))
            )
            or 0,
            impact_buckets=_counts(connection, impact.c.impact_bucket),
        )


def _counts(
    connection: sa.Connection, column: sa.ColumnElement[str], *conditions: sa.ColumnElement[bool]
) -> dict[str, int]:
    rows = connection.execute(
        sa.select(column, sa.func.count()).where(*conditions).group_by(column).order_by(sa.desc(sa.func.count()))
    )
    return {name: count for name, count in rows}  # noqa: C416 # rows are no pairs to a type checker
