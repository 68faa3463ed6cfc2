"""The host's objects, only where they are missing."""

from migrations import execution

revision = "0001"
down_revision = None


def upgrade() -> None:
    execution.run(execution.frozen("0001_host"))


def downgrade() -> None:
    """Leave all of it: what stands here is the host's, whoever made it."""
