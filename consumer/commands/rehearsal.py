"""`--dry-run`: what `consumer sweep` and `consumer reprocess` would write, and nothing written."""

from typing import TYPE_CHECKING, Annotated

import typer

from consumer.commands.options import load_settings

if TYPE_CHECKING:
    from collections.abc import Callable

    import sqlalchemy as sa

    from consumer.reports.rehearsal import Planned

# Heavy imports stand inside the commands: --help is to answer at once.
# ruff: noqa: PLC0415

DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be written, and write nothing.")]


def rehearse_sweep(limit: int, *, as_json: bool) -> None:
    from consumer.reports.rehearsal import plan_sweep

    _rehearse(lambda engine: plan_sweep(engine, limit), as_json=as_json)


def rehearse_reprocess(lead_ids: list[str], *, as_json: bool) -> None:
    from consumer.reports.rehearsal import plan_reprocess

    _rehearse(lambda engine: plan_reprocess(engine, lead_ids), as_json=as_json)


def _rehearse(plan: "Callable[[sa.Engine], list[Planned]]", *, as_json: bool) -> None:
    from consumer.reports.terminal import print_json_list, show_plan
    from db.engine import open_engine

    with open_engine(load_settings().database, "dry-run") as engine:
        planned = plan(engine)
    if as_json:
        print_json_list(planned)
    else:
        show_plan(planned)
