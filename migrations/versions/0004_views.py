"""The views: ours, and the two that the host knows by name."""

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


def upgrade() -> None:
    for view in OURS:
        execution.run(execution.frozen(f"0004_{view}"))
    for view, columns in HOST_NAMED.items():
        adopt(view, columns)


def adopt(view: str, columns: str) -> None:
    """Create a host-named view, or replace it and keep its definition; one that does not fit is left alone."""
    # Nothing in the path, so that the kept definition qualifies every name.
    execution.run("SET LOCAL search_path = pg_catalog")
    found = (
        op.get_bind()
        .execute(
            sa.text("""
            SELECT pg_get_viewdef(attrelid) AS definition, string_agg(attname, ' ' ORDER BY attnum) AS columns
            FROM pg_attribute WHERE attrelid = to_regclass(:view) AND attnum > 0 AND NOT attisdropped
            GROUP BY attrelid
        """),
            {"view": f"ops.{view}"},
        )
        .one_or_none()
    )
    execution.run("SET LOCAL search_path TO DEFAULT")
    if found is None:
        execution.run(execution.frozen(f"0004_{view}"))
    elif found.columns == columns and replace(view):
        keep(view, found.definition)
    else:
        execution.log.warning("ops.%s has columns of its own and is left as it is", view)
        keep(view, None)


def replace(view: str) -> bool:
    try:
        with op.get_bind().begin_nested():
            execution.run(execution.frozen(f"0004_{view}"))
    except sa.exc.ProgrammingError:  # a column of another type
        return False
    return True


def keep(view: str, definition: str | None) -> None:
    op.get_bind().execute(
        sa.text("""
            UPDATE ops.cabinet_recovery_settings
            SET replaced_views = replaced_views || jsonb_build_object(CAST(:view AS text), CAST(:definition AS text))
        """),
        {"view": view, "definition": definition},
    )


def downgrade() -> None:
    kept = op.get_bind().scalar(sa.text("SELECT replaced_views FROM ops.cabinet_recovery_settings")) or {}
    for view in HOST_NAMED:
        if kept.get(view):
            execution.run(f"CREATE OR REPLACE VIEW ops.{view} AS {kept[view]}")
    for view in (*reversed(HOST_NAMED), *reversed(OURS)):
        if view not in kept:
            execution.run(f"DROP VIEW IF EXISTS ops.{view}")
