"""The impact of all leads by joins alone, so that it is counted on all cores."""

from alembic import op

from migrations import execution

revision = "0010"
down_revision = "0009"

VIEW = "v_cabinet_identity_recovery_impact_14d"


def upgrade() -> None:
    renew("0010")


def downgrade() -> None:
    renew("0004")


def renew(version: str) -> None:
    with op.get_context().autocommit_block():
        execution.run_when_unlocked(
            execution.frozen("0010_renew_view")
            .replace("renewed_view", VIEW)
            .replace("definition_of_ours", execution.frozen(f"{version}_{VIEW}"))
        )
