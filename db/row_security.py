"""Row level security on the host's tables: whether it would hide every row from us."""

from typing import LiteralString

from db.connect import LOOK_SECONDS, AccessRefused, Connection
from db.liveness import deadline

# Where row level security holds for a role and no policy lets it read, it sees no row, and no error says so: every lead
# would be unknown, for ever. Our views read with the rights of whoever owns them; the look at all leads with ours.
HIDDEN: LiteralString = """
SELECT namespace.nspname || '.' || host.relname AS table_name, reader.rolname AS role_name
FROM (VALUES
    ('public', 'module_ct_cabinet_leads', true),
    ('public', 'module_ct_cabinet_leads', false),
    ('canon', 'identity_registry', true),
    ('canon', 'identity_links', true),
    ('canon', 'identity_origin', true),
    ('ops', 'identity_matching_jobs', true)
) AS needed (schema_name, table_name, is_read_by_views)
JOIN pg_namespace AS namespace ON namespace.nspname = needed.schema_name
JOIN pg_class AS host ON host.relnamespace = namespace.oid AND host.relname = needed.table_name
JOIN pg_roles AS reader ON reader.oid = CASE
    WHEN needed.is_read_by_views
        THEN (SELECT relowner FROM pg_class WHERE oid = to_regclass('ops.v_cabinet_recovery_identity'))
    ELSE current_user::regrole
END
WHERE host.relrowsecurity
    AND NOT reader.rolsuper
    AND NOT reader.rolbypassrls
    AND (host.relforcerowsecurity OR NOT pg_has_role(reader.oid, host.relowner, 'USAGE'))
    AND NOT EXISTS (
        SELECT FROM pg_policy AS policy
        WHERE policy.polrelid = host.oid
            AND policy.polpermissive
            AND policy.polcmd IN ('*', 'r')
            AND (
                0 = ANY(policy.polroles)
                OR EXISTS (SELECT FROM unnest(policy.polroles) AS named WHERE pg_has_role(reader.oid, named, 'USAGE'))
            )
    )
ORDER BY 1, 2
LIMIT 1
"""


async def require_visible_rows(connection: Connection) -> None:
    """Raise AccessRefused where row level security is sure to hide all rows of a table that recovery reads.

    A policy that shows some rows and hides others cannot be told from a table without the others.
    """
    async with deadline(connection, LOOK_SECONDS):
        cursor = await connection.execute(HIDDEN, prepare=False)
        hidden = await cursor.fetchone()
    if hidden is not None:
        raise AccessRefused(
            f"row level security on {hidden['table_name']} hides every row from role {hidden['role_name']}: "
            "give it a policy, see docs/security.md"
        )
