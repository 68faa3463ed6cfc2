"""The views: ours, and the two that the host knows by name."""

from typing import Any

import sqlalchemy as sa
from alembic import op

from migrations import execution

revision = "0004"
down_revision = "0003"

OURS = ("v_cabinet_recovery_identity", "v_cabinet_recovery_decision", "v_cabinet_recovery_pending")
HOST_NAMED = {
    "v_cabinet_lead_identity_effective": (
        "lead_id lead_date person_key_effective identity_link_source identity_effective"
    ),
    "v_cabinet_identity_recovery_impact_14d": (
        "lead_id lead_date window_end_14d person_key_effective identity_effective origin_ok has_claim "
        "claim_status_bucket recovered_at recovered_within_14d impact_bucket"
    ),
}


DESCRIBE = sa.text("""
    SELECT
        pg_get_viewdef(view.oid) AS definition,
        array_to_string(view.reloptions, ', ') AS options,
        (
            SELECT string_agg(attname, ' ' ORDER BY attnum)
            FROM pg_attribute
            WHERE attrelid = view.oid AND attnum > 0 AND NOT attisdropped
        ) AS columns
    FROM pg_class AS view
    WHERE view.oid = to_regclass(:view)
""")
REMEMBER = sa.text("""
    UPDATE ops.cabinet_recovery_settings
    SET replaced_views = replaced_views || jsonb_build_object(
        CAST(:view AS text),
        jsonb_build_object(
            'ours', CAST(:ours AS text), 'theirs', CAST(:theirs AS text), 'options', CAST(:options AS text)
        )
    )
""")


def upgrade() -> None:
    for view in OURS:
        execution.run(execution.frozen(f"0004_{view}"))
    for view, columns in HOST_NAMED.items():
        adopt(view, columns)


def adopt(view: str, columns: str) -> None:
    """Create a host-named view, or replace it and remember what it was; one that does not fit is left alone."""
    theirs = describe(view)
    if theirs is not None and (theirs.columns != columns or not replaced(view, theirs.options)):
        execution.log.warning("ops.%s has columns of its own and is left as it is", view)
        return
    if theirs is None:
        execution.run(execution.frozen(f"0004_{view}"))
    made = describe(view)
    assert made is not None  # noqa: S101 # it stands since the line above
    op.get_bind().execute(
        REMEMBER,
        {
            "view": view,
            "ours": made.definition,
            "theirs": theirs and theirs.definition,
            "options": theirs and theirs.options,
        },
    )


def describe(view: str) -> sa.Row[Any] | None:
    # Nothing in the path, so that the definition qualifies every name.
    execution.run("SET LOCAL search_path = pg_catalog")
    found = op.get_bind().execute(DESCRIBE, {"view": f"ops.{view}"}).one_or_none()
    execution.run("SET LOCAL search_path TO DEFAULT")
    return found


def replaced(view: str, options: str | None) -> bool:
    try:
        with op.get_bind().begin_nested():
            execution.run(execution.frozen(f"0004_{view}"))
    except sa.exc.ProgrammingError:  # a column of another type
        return False
    set_options(view, options)
    return True


def set_options(view: str, options: str | None) -> None:
    # Whoever replaces a view without naming its options resets them.
    if options:
        execution.run(f"ALTER VIEW ops.{view} SET ({options})")


def downgrade() -> None:
    remembered = op.get_bind().scalar(sa.text("SELECT replaced_views FROM ops.cabinet_recovery_settings")) or {}
    # What the host has made anew since is the host's.
    ours = [view for view in remembered if (found := describe(view)) and found.definition == remembered[view]["ours"]]
    for view in HOST_NAMED:
        if view in ours and remembered[view]["theirs"]:
            execution.run(f"CREATE OR REPLACE VIEW ops.{view} AS {remembered[view]['theirs']}")
            set_options(view, remembered[view]["options"])
            ours.remove(view)
    for view in (*reversed([view for view in HOST_NAMED if view in ours]), *reversed(OURS)):
        execution.run(f"DROP VIEW IF EXISTS ops.{view}")
