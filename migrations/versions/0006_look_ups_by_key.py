"""Two look-ups of the views by their keys, whatever the statistics say."""

from migrations import execution

revision = "0006"
down_revision = "0005"

VIEWS = ("v_cabinet_recovery_identity", "v_cabinet_recovery_decision")


def upgrade() -> None:
    for view in VIEWS:
        execution.run(execution.frozen(f"0006_{view}"))


def downgrade() -> None:
    for view in VIEWS:
        execution.run(execution.frozen(f"0004_{view}"))
