"""`consumer why`: what became of one lead, and what it is waiting for."""

from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from consumer.commands.options import Json, load_settings, require_lead_ids
from consumer.errors import ExitCode

if TYPE_CHECKING:
    from consumer.reports.story import Story
    from db.story import Facts

# Heavy imports stand inside the commands: --help is to answer at once.
# ruff: noqa: PLC0415

Chapter = tuple[str, datetime | None, str]


def why(
    lead_id: Annotated[str, typer.Argument(metavar="LEAD_ID")],
    as_json: Json = False,
) -> None:
    """Tell one lead's story, what is missing and who mends it.

    In order: the lead, its match, link and origin, what is pending, the recovery, and its bucket. It only reads, and
    shows no name, phone or plate. For a lead that there is not, the exit status is 5.
    """
    from consumer.reports.story import read_story
    from consumer.reports.terminal import print_json, shortened, show_story
    from db.engine import open_engine

    require_lead_ids([lead_id])
    with open_engine(load_settings().database, "why") as engine:
        story = read_story(engine, lead_id)
    if story.lead is None:
        typer.echo(f"consumer: {shortened(lead_id)}: {story.verdict}", err=True)
        raise typer.Exit(ExitCode.LEADS)
    if as_json:
        print_json(story, verdict=story.verdict)
    else:
        show_story(shortened(lead_id), chapters(story), story.verdict)


def chapters(story: "Story") -> Iterator[Chapter]:
    """What happened, each with its time and in words."""
    yield from _about_lead(story)
    yield from _about_match(story)
    yield from _about_origin(story)
    for event in story.events:
        yield "event", event["requested_at"], f"{event['source']}: waits to be worked"
    yield from _about_recovery(story)


def _about_lead(story: "Story") -> Iterator[Chapter]:
    lead = story.lead or {}
    yield "lead", lead["lead_created_at"], f"lead_date {lead['lead_date'] or 'unknown'}"
    if lead["window_ends_at"] is not None:
        yield "window", lead["window_ends_at"], "closes" if lead["window_is_open"] else "closed"


def _about_match(story: "Story") -> Iterator[Chapter]:
    if job := story.job:
        yield "match", job["updated_at"], f"job {job['status']}, {_person(job)}, attempts: {job['attempts']}"
    else:
        yield "match", None, "no job of the matching engine"
    if link := story.link:
        before = f", before that {link['previous_person_key']}" if link["previous_person_key"] else ""
        yield (
            "link",
            link["linked_at"],
            f"{_person(link)}{before}, by {link['match_rule']}, score {link['match_score']}",
        )
    else:
        yield "link", None, "none"


def _about_origin(story: "Story") -> Iterator[Chapter]:
    for change in story.origin_history:
        yield "origin was", change["changed_at"], f"{_origin(change, '_old')} until then"
    if origin := story.origin:
        ours = "this lead" if origin["origin_source_id"] == story.lead_id else origin["origin_source_id"]
        told = f"{origin['origin_tag']} of {ours}, {origin['resolution_status']}, decided by {origin['decided_by']}"
        yield "origin", origin["decided_at"], told
    else:
        yield "origin", None, "none"


def _about_recovery(story: "Story") -> Iterator[Chapter]:
    if audit := story.audit:
        yield "recovered", audit["first_recovered_at"], f"by {audit['recovered_by']}, {audit['recovery_method']}"
        if audit["last_recovered_at"] != audit["first_recovered_at"]:
            yield "again", audit["last_recovered_at"], f"person {audit['recovered_person_key']}"
    else:
        yield "recovered", None, "never"
    if (found := story.exception) and found["resolved_at"] is None:
        yield "exception", found["last_seen_at"], " ".join(filter(None, _exception_words(found)))
    if impact := story.impact:
        yield "bucket", None, f"{impact['impact_bucket']} ({impact['claim_status_bucket']})"


def _exception_words(found: "Facts") -> Iterator[str | None]:
    yield f"{found['outcome']}:"
    yield from (found["sqlstate"], found["message"])
    if found["parked_at"] is not None:
        yield f"(parked, attempts: {found['attempts']})"


def _person(row: "Facts") -> str:
    return f"person {row['person_key'] or 'unknown'}"


def _origin(change: "Facts", side: str) -> Any:
    tag, source, status = (change[f"{name}{side}"] for name in ("origin_tag", "origin_source_id", "resolution_status"))
    return f"{tag} of {source}, {status}"
