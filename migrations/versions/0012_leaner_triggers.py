"""Nothing in the engine's way that the server parses anew for each statement: a trigger's WHEN, a table's CHECK.

The handler's own mark is looked for in the functions instead. Of an event's source only our own triggers and queries
are the authors.
"""

from alembic import op

from migrations import execution

revision = "0012"
down_revision = "0011"

TRIGGERS = {
    "canon.identity_links": ("cabinet_recovery_link_inserted", "cabinet_recovery_link_updated"),
    "ops.identity_matching_jobs": ("cabinet_recovery_job_inserted", "cabinet_recovery_job_updated"),
}
DROP_CHECK = """
ALTER TABLE ops.cabinet_recovery_outbox
DROP CONSTRAINT IF EXISTS cabinet_recovery_outbox_source_check
"""
ADD_CHECK = f"""{DROP_CHECK.rstrip()},
ADD CONSTRAINT cabinet_recovery_outbox_source_check
CHECK (source IN ('identity_link', 'matching_job', 'reconcile', 'operator'));
"""


def upgrade() -> None:
    with op.get_context().autocommit_block():
        execution.run_when_unlocked(DROP_CHECK)
        for table, triggers in TRIGGERS.items():
            _replace(table, "\n".join(execution.frozen(f"0012_{name}") for name in triggers))
    # No transaction that began with the functions that call it has outlived the tables' locks.
    execution.run("DROP FUNCTION IF EXISTS ops.cabinet_recovery_notify(text[])")


def downgrade() -> None:
    execution.run(execution.frozen("0005_cabinet_recovery_notify"))
    with op.get_context().autocommit_block():
        for table, triggers in TRIGGERS.items():
            _replace(table, "\n".join(_before(name) for name in triggers))
        execution.run_when_unlocked(ADD_CHECK)


def _before(name: str) -> str:
    """The function as 0008 left it, and the trigger of 0005."""
    trigger = execution.frozen(f"0005_{name}").partition("\nCREATE OR REPLACE TRIGGER ")
    return execution.frozen(f"0008_{name}") + "".join(trigger[1:])


def _replace(table: str, triggers: str) -> None:
    """Replace triggers of the table, and leave each switched as it was: whoever replaces one switches it on."""
    execution.run_when_unlocked(f"""
LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE;
SELECT set_config(
    'cabinet_recovery.switched',
    (
        SELECT string_agg(format(
            'ALTER TABLE {table} %s TRIGGER %I',
            CASE tgenabled WHEN 'D' THEN 'DISABLE' WHEN 'A' THEN 'ENABLE ALWAYS' ELSE 'ENABLE REPLICA' END,
            tgname
        ), '; ')
        FROM pg_trigger
        WHERE tgrelid = '{table}'::regclass AND starts_with(tgname, 'cabinet_recovery_') AND tgenabled <> 'O'
    ),
    true
);
{triggers}
DO $switch$
BEGIN
    IF current_setting('cabinet_recovery.switched') <> '' THEN
        EXECUTE current_setting('cabinet_recovery.switched');
    END IF;
END
$switch$;
""")  # noqa: S608 # all of it is here
