"""What the service owns, as SQLAlchemy sees it: the tables by their columns, the views that reports read.

The migrations make them; a test holds the two together.
"""

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

metadata = sa.MetaData(schema="ops")
_instant = sa.DateTime(timezone=True)

audit = sa.Table(
    "cabinet_lead_recovery_audit",
    metadata,
    sa.Column("lead_id", sa.String, primary_key=True),
    sa.Column("first_recovered_at", _instant, nullable=False),
    sa.Column("last_recovered_at", _instant, nullable=False),
    sa.Column("recovered_person_key", sa.Uuid),
    sa.Column("recovered_by", sa.String, nullable=False),
    sa.Column("recovery_method", sa.String),
    sa.Column("updated_at", _instant, nullable=False),
)

outbox = sa.Table(
    "cabinet_recovery_outbox",
    metadata,
    sa.Column("lead_id", sa.Text, primary_key=True),
    sa.Column("event_id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("requested_at", _instant, nullable=False),
)

exception = sa.Table(
    "cabinet_recovery_exception",
    metadata,
    sa.Column("lead_id", sa.Text, primary_key=True),
    sa.Column("outcome", sa.Text, nullable=False),
    sa.Column("sqlstate", sa.Text),
    sa.Column("message", sa.Text),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("failed_events", sa.Integer, nullable=False),
    sa.Column("next_attempt_at", _instant),
    sa.Column("parked_at", _instant),
    sa.Column("match_waits", sa.Boolean, nullable=False),
    sa.Column("first_seen_at", _instant, nullable=False),
    sa.Column("last_seen_at", _instant, nullable=False),
    sa.Column("resolved_at", _instant),
)

settings = sa.Table(
    "cabinet_recovery_settings",
    metadata,
    sa.Column("only_row", sa.Boolean, primary_key=True),
    sa.Column("business_time_zone", sa.Text, nullable=False),
    sa.Column("notify_mode", sa.Text, nullable=False),
    sa.Column("replaced_views", JSONB, nullable=False),
    sa.Column("awake_until", _instant),
)

# The views, by the columns that reports read.
pending = sa.table(
    "v_cabinet_recovery_pending",
    sa.column("lead_id", sa.Text),
    sa.column("events", sa.BigInteger),
    sa.column("requested_at", _instant),
    sa.column("is_due", sa.Boolean),
    schema="ops",
)

impact = sa.table(
    "v_cabinet_identity_recovery_impact_14d",
    sa.column("lead_id", sa.Text),
    sa.column("impact_bucket", sa.Text),
    schema="ops",
)

identity = sa.table(
    "v_cabinet_recovery_identity",
    sa.column("lead_pk", sa.BigInteger),
    sa.column("lead_id", sa.Text),
    schema="ops",
)

decision = sa.table(
    "v_cabinet_recovery_decision",
    sa.column("lead_id", sa.Text),
    sa.column("lead_created_at", _instant),
    sa.column("window_ends_at", _instant),
    sa.column("person_key", sa.Uuid),
    sa.column("link_action", sa.Text),
    sa.column("origin_action", sa.Text),
    sa.column("reason", sa.Text),
    schema="ops",
)
