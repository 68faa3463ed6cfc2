"""The index on lead_id, which the host's table has no column for."""

import sqlalchemy as sa
from alembic import op

from migrations import execution

revision = "0003"
down_revision = "0002"

INDEX = "ix_cabinet_recovery_lead_id"


def upgrade() -> None:
    """Build the index beside the host's writes.

    Without a lock_timeout: CONCURRENTLY waits for transactions, not in anybody's way. Interrupted, it leaves an
    invalid index behind, which serves nobody and costs every write: that one is dropped first.
    """
    with op.get_context().autocommit_block():
        if op.get_bind().scalar(
            sa.text("SELECT NOT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:index)"),
            {"index": f"public.{INDEX}"},
        ):
            execution.run(f"DROP INDEX CONCURRENTLY public.{INDEX}")
        execution.run(
            f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {INDEX} "
            "ON public.module_ct_cabinet_leads (COALESCE(external_id, id::text))"
        )
        # An expression has no statistics until its table is analysed again.
        execution.run("ANALYZE public.module_ct_cabinet_leads")


def downgrade() -> None:
    with op.get_context().autocommit_block():
        execution.run(f"DROP INDEX CONCURRENTLY IF EXISTS public.{INDEX}")
