"""Taking the service out of a database again, so that the host's schema is as it was before."""

from contextlib import closing
from dataclasses import dataclass
from typing import LiteralString

import psycopg
from alembic import command

from db.connect import Address, StillInUse
from db.host import open_session
from db.migrate import Tell, running

AUDIT = "ops.cabinet_lead_recovery_audit"
VERSION = "ops.cabinet_recovery_alembic_version"

CONSUMERS: LiteralString = """
SELECT application_name || ', backend ' || pid
FROM pg_stat_activity
WHERE
    datname = current_database()
    AND application_name IN (
        'cabinet-recovery listener', 'cabinet-recovery worker', 'cabinet-recovery sweeper', 'cabinet-recovery prober',
        'cabinet-recovery sweep', 'cabinet-recovery reprocess'
    )
ORDER BY application_name, pid
"""
# A view of the host's that it has made anew since is not ours any more, and whatever reads it may stay.
DEPENDENTS: LiteralString = """
SELECT DISTINCT reader.oid::regclass::text || ' reads ' || ours.oid::regclass::text
FROM pg_class AS ours
INNER JOIN pg_depend AS dependency ON dependency.refobjid = ours.oid AND dependency.refclassid = 'pg_class'::regclass
INNER JOIN pg_rewrite AS rule ON dependency.objid = rule.oid AND dependency.classid = 'pg_rewrite'::regclass
INNER JOIN pg_class AS reader ON rule.ev_class = reader.oid
WHERE
    ours.relnamespace = to_regnamespace('ops')
    AND (
        ours.relname = ANY(ARRAY[
            'cabinet_recovery_outbox', 'cabinet_recovery_exception', 'cabinet_recovery_settings',
            'cabinet_recovery_alembic_version', 'v_cabinet_recovery_identity', 'v_cabinet_recovery_decision',
            'v_cabinet_recovery_pending', 'v_cabinet_recovery_audit', 'v_cabinet_recovery_calendar',
            'v_cabinet_recovery_event', 'v_cabinet_recovery_exception', 'v_cabinet_recovery_job',
            'v_cabinet_recovery_link', 'v_cabinet_recovery_origin', 'v_cabinet_recovery_origin_history'
        ])
        OR (ours.relname = ANY(%(made)s::text[]))
        OR (ours.relname = 'cabinet_lead_recovery_audit' AND %(drop_audit)s)
    )
    AND NOT (
        reader.relnamespace = to_regnamespace('ops')
        AND (
            reader.relname LIKE 'v\\_cabinet\\_recovery\\_%%'
            OR reader.relname IN ('v_cabinet_lead_identity_effective', 'v_cabinet_identity_recovery_impact_14d')
        )
    )
ORDER BY 1
"""
# The host-named views that there were none of before.
MADE: LiteralString = """
SELECT remembered.name
FROM ops.cabinet_recovery_settings, jsonb_each(replaced_views) AS remembered (name, what)
WHERE remembered.what ->> 'theirs' IS NULL
"""
# What the service's own roles were given on the host's objects; theirs on ours go with them.
REVOKES: LiteralString = """
SELECT DISTINCT format(
    'REVOKE ALL ON %s %s FROM %I', CASE WHEN owned.relkind = 'S' THEN 'SEQUENCE' ELSE 'TABLE' END,
    owned.oid::regclass, role.rolname
)
FROM pg_class AS owned
INNER JOIN pg_roles AS role ON role.rolname LIKE 'cabinet\\_recovery\\_%%' AND role.oid <> owned.relowner
WHERE
    owned.relnamespace IN (to_regnamespace('ops'), to_regnamespace('canon'), to_regnamespace('public'))
    AND pg_has_role(owned.relowner, 'USAGE')
    AND role.oid IN (
        SELECT (aclexplode(owned.relacl)).grantee
        UNION ALL
        SELECT (aclexplode(attacl)).grantee FROM pg_attribute WHERE attrelid = owned.oid AND attacl IS NOT NULL
    )
UNION ALL
SELECT format('REVOKE ALL ON SCHEMA %I FROM %I', schema.nspname, role.rolname)
FROM pg_namespace AS schema
INNER JOIN pg_roles AS role ON role.rolname LIKE 'cabinet\\_recovery\\_%%' AND role.oid <> schema.nspowner
WHERE
    schema.nspname IN ('ops', 'canon', 'public')
    AND pg_has_role(schema.nspowner, 'USAGE')
    AND role.oid IN (SELECT (aclexplode(schema.nspacl)).grantee)
"""


@dataclass(frozen=True)
class Installed:
    """What there is of the service in a database."""

    database: str
    has_schema: bool
    has_audit_to_drop: bool

    @property
    def has_something(self) -> bool:
        return self.has_schema or self.has_audit_to_drop

    @property
    def in_words(self) -> str:
        audit = ", and drop its audit" if self.has_audit_to_drop else ""
        return f"database {self.database}{audit}"


def look(address: Address, *, drop_audit: bool) -> Installed:
    """See what would go, and that nobody needs it. Raises StillInUse; changes nothing."""
    with closing(open_session(address, "uninstall")) as connection:
        found = Installed(
            connection.info.dbname,
            _exists(connection, VERSION),
            drop_audit and _exists(connection, AUDIT),
        )
        if found.has_something:
            _require_unused(connection, drop_audit=drop_audit)
        return found


def uninstall(address: Address, tell: Tell = lambda _line: None, *, drop_audit: bool = False) -> None:
    """Remove what is ours; `tell` is given a line for each step.

    The triggers go first: from then on no match of the engine knows of us. Safe to interrupt and to repeat. Raises
    StillInUse and TableBusy.
    """
    with closing(open_session(address, "uninstall")) as connection:
        if _exists(connection, VERSION):
            with running(address, tell) as config:
                command.downgrade(config, "base")
        for (revoke,) in connection.execute(REVOKES).fetchall():
            connection.execute(revoke)
            tell(revoke)
        connection.execute("SET lock_timeout = '5s'")  # nobody but us reads these
        if drop_audit:
            connection.execute("DROP TABLE IF EXISTS ops.cabinet_lead_recovery_audit")
        connection.execute("DROP TABLE IF EXISTS ops.cabinet_recovery_alembic_version")


def _exists(connection: psycopg.Connection, relation: str) -> bool:
    return connection.execute("SELECT to_regclass(%s) IS NOT NULL", [relation]).fetchone() == (True,)


def _require_unused(connection: psycopg.Connection, *, drop_audit: bool) -> None:
    if consumers := [name for (name,) in connection.execute(CONSUMERS)]:
        raise StillInUse(f"a consumer is connected ({'; '.join(consumers)}): stop it first")
    made = []
    if _exists(connection, "ops.cabinet_recovery_settings"):
        made = [name for (name,) in connection.execute(MADE)]
    if readers := [what for (what,) in connection.execute(DEPENDENTS, {"made": made, "drop_audit": drop_audit})]:
        raise StillInUse(f"others need what would be dropped: {'; '.join(readers)}; drop or change those first")
