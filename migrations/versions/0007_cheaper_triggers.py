"""Trigger functions that cost the matching engine less; the triggers themselves stay, so no table is locked."""

from migrations import execution

revision = "0007"
down_revision = "0006"

FUNCTIONS = (
    "cabinet_recovery_link_inserted",
    "cabinet_recovery_link_updated",
    "cabinet_recovery_job_inserted",
    "cabinet_recovery_job_updated",
)


def upgrade() -> None:
    for function in FUNCTIONS:
        execution.run(execution.frozen(f"0007_{function}"))


def downgrade() -> None:
    for function in FUNCTIONS:
        execution.run(execution.frozen(f"0005_{function}").split("\nREVOKE")[0])
