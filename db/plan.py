"""What a migration would do to each object, read off the very script that it would run."""

import re
from dataclasses import dataclass
from typing import Literal

import psycopg

from db.connect import Address
from db.migrate import write_script

CREATES = re.compile(
    r"^\s*(?:SELECT ')?CREATE (?P<replace>OR REPLACE )?(?:UNIQUE )?"
    r"(?P<kind>SCHEMA|TABLE|INDEX|VIEW|FUNCTION|TRIGGER)(?P<concurrently> CONCURRENTLY)?(?: IF NOT EXISTS)?"
    r" (?P<name>[\w.]+)(?:[^;]*?\bON (?P<table>\w+\.\w+))?",
    re.MULTILINE,
)
ALTERS = re.compile(r"^ALTER TABLE (ops\.cabinet_recovery_\w+)$", re.MULTILINE)
DROPS = re.compile(r"^DROP FUNCTION IF EXISTS (ops\.cabinet_recovery_\w+)", re.MULTILINE)
# The baseline makes each of the host's tables, with all that belongs to it, only where there is none.
GUARDED = re.compile(r"^    IF to_reg\w+\('([\w.]+)'\) IS NULL THEN$(.*?)^    END IF;$", re.MULTILINE | re.DOTALL)
HOST_ENUMS = ("confidencelevel", "origin_tag", "decided_by_type", "origin_resolution_status")

EXISTS = """
SELECT CASE %(kind)s
    WHEN 'SCHEMA' THEN to_regnamespace(%(name)s) IS NOT NULL
    WHEN 'TYPE' THEN EXISTS (SELECT FROM pg_type WHERE typname = %(name)s)
    WHEN 'FUNCTION' THEN to_regproc(%(name)s) IS NOT NULL
    WHEN 'TRIGGER' THEN EXISTS (
        SELECT FROM pg_trigger WHERE tgname = %(name)s AND tgrelid = to_regclass(%(table)s)
    )
    WHEN 'INDEX' THEN EXISTS (
        SELECT FROM pg_index WHERE indexrelid = to_regclass(%(schema)s || '.' || %(name)s) AND indisvalid
    )
    ELSE to_regclass(%(name)s) IS NOT NULL
END
"""
DIFFERS = """
SELECT
    relation.relkind <> 'v' OR string_agg(
        attribute.attname || ' ' || format_type(attribute.atttypid, attribute.atttypmod), ', ' ORDER BY attribute.attnum
    ) <> replace(%(columns)s, 'lead_id text', 'lead_id ' || (
        SELECT format_type(atttypid, NULL)
        FROM pg_attribute
        WHERE attrelid = 'public.module_ct_cabinet_leads'::regclass AND attname = 'external_id'
    ))
FROM pg_class AS relation
LEFT JOIN pg_attribute AS attribute
    ON relation.oid = attribute.attrelid AND attribute.attnum > 0 AND NOT attribute.attisdropped
WHERE relation.oid = to_regclass(%(name)s)
GROUP BY relation.oid, relation.relkind
"""
HOST_NAMED = {
    "ops.v_cabinet_lead_identity_effective": (
        "lead_id text, lead_date date, person_key_effective uuid, identity_link_source text, identity_effective boolean"
    ),
    "ops.v_cabinet_identity_recovery_impact_14d": (
        "lead_id text, lead_date date, window_end_14d date, person_key_effective uuid, identity_effective boolean, "
        "origin_ok boolean, has_claim boolean, claim_status_bucket text, recovered_at timestamp with time zone, "
        "recovered_within_14d boolean, impact_bucket text"
    ),
}


@dataclass(frozen=True)
class PlannedObject:
    """One object of the database, and what becomes of it."""

    action: Literal["create", "alter", "replace", "leave", "drop"]
    kind: str
    name: str
    remark: str = ""


@dataclass(frozen=True)
class _Named:
    kind: str
    name: str
    table: str | None = None
    is_replaced: bool = False
    remark: str = ""

    @property
    def in_words(self) -> str:
        return f"{self.name} on {self.table}" if self.kind == "trigger" else self.name


def plan(connection: psycopg.Connection, address: Address) -> list[PlannedObject]:
    """What `migrate` would create, alter, replace, leave and drop; [] where nothing is due. Changes nothing."""
    script = write_script(connection, address)
    enums = [_Named("type", name) for name in HOST_ENUMS if f"('{name}', ARRAY[" in script and "CREATE TYPE" in script]
    named = _named_in(GUARDED.sub(lambda guarded: _without_what_is_left(connection, guarded), script))
    altered = [one for name in ALTERS.findall(script) if (one := _Named("table", name)) not in named]
    dropped = [_Named("function", name) for name in DROPS.findall(script)]
    # A view that a later migration makes anew is named twice; what one drops may have been made by an earlier one.
    kept = [one for one in dict.fromkeys(enums + named) if one.name not in {gone.name for gone in dropped}]
    return [
        *dict.fromkeys(_planned(connection, one) for one in kept),
        *(PlannedObject("alter", one.kind, one.name) for one in altered),
        *(PlannedObject("drop", one.kind, one.name) for one in dropped if _exists(connection, one)),
    ]


def _without_what_is_left(connection: psycopg.Connection, guarded: re.Match[str]) -> str:
    """The guarded part, or only its table where that exists and all the rest is passed by."""
    table = next(one for one in _named_in(guarded[2]) if one.name == guarded[1])
    return f"CREATE {table.kind.upper()} {table.name}" if _exists(connection, table) else guarded[0]


def _named_in(script: str) -> list[_Named]:
    return [
        _Named(
            match["kind"].lower(),
            match["name"],
            match["table"],
            bool(match["replace"]),
            f"on {match['table']}, beside its writes" if match["concurrently"] else "",
        )
        for match in CREATES.finditer(script)
    ]


def _planned(connection: psycopg.Connection, one: _Named) -> PlannedObject:
    if not _exists(connection, one):
        return PlannedObject("create", one.kind, one.in_words, one.remark)
    if one.name in HOST_NAMED and _differs(connection, one.name):
        return PlannedObject("leave", one.kind, one.in_words, "its columns are its own")
    if one.name in HOST_NAMED:
        return PlannedObject("replace", one.kind, one.in_words, "`consumer uninstall` puts it back")
    return PlannedObject("replace" if one.is_replaced else "leave", one.kind, one.in_words)


def _exists(connection: psycopg.Connection, one: _Named) -> bool:
    schema = one.table.split(".")[0] if one.table else None
    parameters = {"kind": one.kind.upper(), "name": one.name, "table": one.table, "schema": schema}
    row = connection.execute(EXISTS, parameters).fetchone()
    return bool(row and row[0])


def _differs(connection: psycopg.Connection, view: str) -> bool:
    row = connection.execute(DIFFERS, {"name": view, "columns": HOST_NAMED[view]}).fetchone()
    return bool(row and row[0])
