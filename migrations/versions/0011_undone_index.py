"""An index of the few exceptions that are ours to end, beside any number of leads that are skipped."""

from alembic import op

from migrations import execution

revision = "0011"
down_revision = "0010"

# A table of ours, read through once: a handler that meets it waits no longer than its lock_timeout, and comes again.
MAKE = """
CREATE INDEX IF NOT EXISTS ix_cabinet_recovery_exception_undone
ON ops.cabinet_recovery_exception (parked_at, lead_id)
WHERE resolved_at IS NULL AND (outcome IN ('failed', 'unknown_person') OR parked_at IS NOT NULL)
"""


def upgrade() -> None:
    with op.get_context().autocommit_block():
        execution.run_when_unlocked(MAKE)


def downgrade() -> None:
    with op.get_context().autocommit_block():
        execution.run_when_unlocked("DROP INDEX IF EXISTS ops.ix_cabinet_recovery_exception_undone")
