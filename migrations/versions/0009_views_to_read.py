"""Views for who may look and no more: each table without what is personal. And the index for the latest recoveries."""

import sqlalchemy as sa
from alembic import op

from migrations import execution

revision = "0009"
down_revision = "0008"

VIEWS = (
    "v_cabinet_recovery_calendar",
    "v_cabinet_recovery_audit",
    "v_cabinet_recovery_exception",
    "v_cabinet_recovery_event",
    "v_cabinet_recovery_job",
    "v_cabinet_recovery_link",
    "v_cabinet_recovery_origin",
    "v_cabinet_recovery_origin_history",
)
INDEX = "ix_cabinet_recovery_audit_first_recovered_at"
INVALID = f"SELECT FROM pg_index WHERE indexrelid = to_regclass('ops.{INDEX}') AND NOT indisvalid"  # ours


def upgrade() -> None:
    for view in VIEWS:
        execution.run(execution.frozen(f"0009_{view}"))
    # Beside everybody's writes, as in 0003.
    with op.get_context().autocommit_block(), execution.telling_what_is_waited_for():
        drop_invalid()
        execution.run(
            f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {INDEX} ON ops.cabinet_lead_recovery_audit (first_recovered_at)"
        )


def drop_invalid() -> None:
    drop = f"DROP INDEX CONCURRENTLY ops.{INDEX}"
    if execution.is_script():
        execution.run(f"SELECT '{drop}' WHERE EXISTS ({INVALID}) \\gexec")
    elif op.get_bind().scalar(sa.text(f"SELECT EXISTS ({INVALID})")):
        execution.run(drop)


def downgrade() -> None:
    for view in VIEWS:
        execution.run(f"DROP VIEW IF EXISTS ops.{view}")
    with op.get_context().autocommit_block(), execution.telling_what_is_waited_for():
        execution.run(f"DROP INDEX CONCURRENTLY IF EXISTS ops.{INDEX}")
