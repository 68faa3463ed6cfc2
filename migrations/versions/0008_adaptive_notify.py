"""Mode 'adaptive': no notification while a keeper is awake. The triggers stay, so no table of the host's is locked."""

from alembic import op

from migrations import execution

revision = "0008"
down_revision = "0007"

FUNCTIONS = (
    "cabinet_recovery_link_inserted",
    "cabinet_recovery_link_updated",
    "cabinet_recovery_job_inserted",
    "cabinet_recovery_job_updated",
)

ADD_LEASE = """
ALTER TABLE ops.cabinet_recovery_settings
ADD COLUMN IF NOT EXISTS awake_until timestamptz,
DROP CONSTRAINT IF EXISTS cabinet_recovery_settings_notify_mode_check,
ADD CONSTRAINT cabinet_recovery_settings_notify_mode_check CHECK (notify_mode IN ('on', 'adaptive', 'off'));
"""
REMOVE_LEASE = """
DROP FUNCTION IF EXISTS ops.cabinet_recovery_rings(text, timestamptz);
UPDATE ops.cabinet_recovery_settings SET notify_mode = 'on' WHERE notify_mode = 'adaptive';
ALTER TABLE ops.cabinet_recovery_settings
DROP CONSTRAINT IF EXISTS cabinet_recovery_settings_notify_mode_check,
ADD CONSTRAINT cabinet_recovery_settings_notify_mode_check CHECK (notify_mode IN ('on', 'off')),
DROP COLUMN IF EXISTS awake_until;
"""


def upgrade() -> None:
    # The engine's triggers read this table: nobody may queue behind us for it.
    with op.get_context().autocommit_block():
        execution.run_when_unlocked(ADD_LEASE)
    for function in ("cabinet_recovery_rings", *FUNCTIONS):
        execution.run(execution.frozen(f"0008_{function}"))


def downgrade() -> None:
    for function in FUNCTIONS:
        execution.run(execution.frozen(f"0007_{function}"))
    with op.get_context().autocommit_block():
        execution.run_when_unlocked(REMOVE_LEASE)
