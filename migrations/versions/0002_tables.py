"""The service's own tables: audit, outbox, exceptions, settings."""

from alembic import op

from migrations import execution

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    execution.run(execution.frozen("0002_tables"))


def downgrade() -> None:
    """Remove what is ours but the audit, which is the record of what was done and may be the host's own."""
    with op.get_context().autocommit_block():
        for table in ("settings", "exception", "outbox"):
            execution.run_when_unlocked(f"DROP TABLE IF EXISTS ops.cabinet_recovery_{table}")
