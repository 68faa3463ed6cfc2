"""Questions that operators ask, answered from the tables and views."""

from dataclasses import dataclass

import sqlalchemy as sa

from db.tables import exception, impact, pending


@dataclass(frozen=True)
class Status:
    """What stands now: leads pending and how old the oldest event is, what could not be done, and the impact."""

    pending_leads: int
    due_leads: int
    oldest_pending_seconds: float | None
    exceptions: dict[str, int]
    parked_leads: int
    impact_buckets: dict[str, int]


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
