"""The index on lead_id, which the host's table has no column for."""

import sqlalchemy as sa
from alembic import op

from migrations import execution

revision = "0003"
down_revision = "0002"

INDEX = "ix_cabinet_recovery_lead_id"
INVALID = "SELECT FROM pg_index WHERE indexrelid = to_regclass('public.ix_cabinet_recovery_lead_id') AND NOT indisvalid"


def upgrade() -> None:
    """Build the index beside the host's writes.

    Without a lock_timeout: CONCURRENTLY waits for transactions, not in anybody's way. Interrupted, it leaves an
    invalid index behind, which serves nobody and costs every write: that one is dropped first.
    """
    with op.get_context().autocommit_block(), execution.telling_what_is_waited_for():
        drop_invalid()
        execution.run(
            f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {INDEX} "
            "ON public.module_ct_cabinet_leads (COALESCE(external_id, id::text))"
        )
        # An expression has no statistics until its table is analysed again.
        execution.run("ANALYZE public.module_ct_cabinet_leads")


def drop_invalid() -> None:
    drop = f"DROP INDEX CONCURRENTLY public.{INDEX}"
    if execution.is_script():
        execution.run(f"SELECT '{drop}' WHERE EXISTS ({INVALID}) \\gexec")
    elif op.get_bind().scalar(sa.text(f"SELECT EXISTS ({INVALID})")):
        execution.run(drop)


def downgrade() -> None:
    with op.get_context().autocommit_block(), execution.telling_what_is_waited_for():
        execution.run(f"DROP INDEX CONCURRENTLY IF EXISTS public.{INDEX}")
