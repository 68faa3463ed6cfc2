"""The triggers that turn the engine's matches into events."""

from alembic import op

from migrations import execution

revision = "0005"
down_revision = "0004"

TRIGGERS = {
    "canon.identity_links": ("cabinet_recovery_link_inserted", "cabinet_recovery_link_updated"),
    "ops.identity_matching_jobs": ("cabinet_recovery_job_inserted", "cabinet_recovery_job_updated"),
}


def upgrade() -> None:
    execution.run(execution.frozen("0005_cabinet_recovery_notify"))
    # A transaction for each table: the engine, too, locks one at a time.
    with op.get_context().autocommit_block():
        for triggers in TRIGGERS.values():
            execution.run_when_unlocked("\n".join(execution.frozen(f"0005_{name}") for name in triggers))


def downgrade() -> None:
    with op.get_context().autocommit_block():
        for table, triggers in TRIGGERS.items():
            execution.run_when_unlocked(
                "\n".join(
                    f"DROP TRIGGER IF EXISTS {name} ON {table}; DROP FUNCTION IF EXISTS ops.{name}();"
                    for name in triggers
                )
            )
    execution.run("DROP FUNCTION IF EXISTS ops.cabinet_recovery_notify(text[])")
