"""The views: ours, and the two that the host knows by name."""

from alembic import op

from migrations import execution

revision = "0004"
down_revision = "0003"

OURS = ("v_cabinet_recovery_identity", "v_cabinet_recovery_decision", "v_cabinet_recovery_pending")
HOST_NAMED = ("v_cabinet_lead_identity_effective", "v_cabinet_identity_recovery_impact_14d")


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for view in OURS:
            execution.run_when_unlocked(execution.frozen(f"0004_{view}"))
        for view in HOST_NAMED:
            execution.run_when_unlocked(
                execution.frozen("0004_adopt_view")
                .replace("adopted_view", view)
                .replace("definition_of_ours", execution.frozen(f"0004_{view}"))
            )


def downgrade() -> None:
    with op.get_context().autocommit_block():
        execution.run_when_unlocked(execution.frozen("0004_give_views_back"))
