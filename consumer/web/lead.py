"""The story of one lead, in the words of a language."""

from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple

from consumer.reports.story import Story
from consumer.web.texts import Texts
from db.story import Facts


class Chapter(NamedTuple):
    """What happened, when (None: at no moment), and in words."""

    name: str
    at: datetime | None
    words: str


def chapters(story: Story, texts: Texts) -> Iterator[Chapter]:
    """In order: the lead, its match, link and origin, what is pending, the recovery, and how it is counted."""
    parts = (_about_lead, _about_match, _about_link, _about_origin, _about_events, _about_recovery)
    for part in parts:
        for name, at, words in part(story, texts):
            yield Chapter(texts(f"chapter_{name}"), at, words)


def verdict(story: Story, texts: Texts) -> str:
    return texts(f"verdict_{story.state}", **story.particulars)


def refusal(sqlstate: str | None, texts: Texts) -> str:
    """What an SQLSTATE means, as far as its class tells; the server's own words may quote the data."""
    kind = (sqlstate or "")[:2]
    return texts(f"sqlstate_{kind}" if kind in {"22", "23", "P0"} else "sqlstate_other")


def _about_lead(story: Story, texts: Texts) -> Iterator[Chapter]:
    if (lead := story.lead) is None:
        return
    day = lead["lead_date"]
    yield Chapter("lead", lead["lead_created_at"], texts("lead_date", day=day) if day else texts("lead_date_unknown"))
    if lead["window_ends_at"] is not None:
        yield Chapter(
            "window", lead["window_ends_at"], texts("window_open" if lead["window_is_open"] else "window_closed")
        )


def _about_match(story: Story, texts: Texts) -> Iterator[Chapter]:
    if (job := story.job) is None:
        yield Chapter("match", None, texts("no_job"))
        return
    words = texts("job", status=job["status"], attempts=job["attempts"], person=job["person_key"] or texts("nobody"))
    yield Chapter("match", job["updated_at"], words)


def _about_link(story: Story, texts: Texts) -> Iterator[Chapter]:
    if (link := story.link) is None:
        yield Chapter("link", None, texts("none"))
        return
    words = texts(
        "link_moved" if link["previous_person_key"] else "link",
        person=link["person_key"],
        previous=link["previous_person_key"],
        rule=link["match_rule"],
        score=link["match_score"],
    )
    yield Chapter("link", link["linked_at"], words)


def _about_origin(story: Story, texts: Texts) -> Iterator[Chapter]:
    for change in story.origin_history:
        old = {name: change[f"{name}_old"] for name in ("origin_tag", "origin_source_id", "resolution_status")}
        yield Chapter("origin_was", change["changed_at"], _origin("origin", old, story, texts))
    if (origin := story.origin) is None:
        yield Chapter("origin", None, texts("none"))
    else:
        yield Chapter("origin", origin["decided_at"], _origin("origin_decided", origin, story, texts))


def _origin(key: str, origin: Facts, story: Story, texts: Texts) -> str:
    source = origin["origin_source_id"]
    return texts(
        key,
        tag=origin["origin_tag"],
        source=texts("this_lead") if source == story.lead_id else source,
        status=origin["resolution_status"],
        decided_by=origin.get("decided_by"),
    )


def _about_events(story: Story, texts: Texts) -> Iterator[Chapter]:
    for event in story.events:
        yield Chapter("event", event["requested_at"], texts("event", source=event["source"]))


def _about_recovery(story: Story, texts: Texts) -> Iterator[Chapter]:
    if (audit := story.audit) is None:
        yield Chapter("recovered", None, texts("never"))
    else:
        yield Chapter("recovered", audit["first_recovered_at"], texts("recovered", method=audit["recovery_method"]))
        if audit["last_recovered_at"] != audit["first_recovered_at"]:
            yield Chapter("again", audit["last_recovered_at"], texts("again", person=audit["recovered_person_key"]))
    if (found := story.exception) is not None and found["resolved_at"] is None:
        yield Chapter("exception", found["last_seen_at"], _exception(found, texts))
    if (impact := story.impact) is not None:
        yield Chapter("bucket", None, texts(f"bucket_{impact['impact_bucket']}"))


def _exception(found: Facts, texts: Texts) -> str:
    return texts(
        "exception" if found["parked_at"] is None else "exception_parked",
        reason=texts(f"reason_{found['outcome']}"),
        sqlstate=f"({found['sqlstate']})" if found["sqlstate"] else "",
        attempts=found["attempts"],
    ).strip()
