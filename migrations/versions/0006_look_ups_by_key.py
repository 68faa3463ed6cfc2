"""Two look-ups of the views by their keys, whatever the statistics say."""

from alembic import op

from migrations import execution

revision = "0006"
down_revision = "0005"

VIEWS = ("v_cabinet_recovery_identity", "v_cabinet_recovery_decision")


def upgrade() -> None:
    replace("0006")


def downgrade() -> None:
    replace("0004")


def replace(version: str) -> None:
    with op.get_context().autocommit_block():
        for view in VIEWS:
            execution.run_when_unlocked(execution.frozen(f"{version}_{view}"))
