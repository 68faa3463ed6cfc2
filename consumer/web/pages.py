"""The pages, as HTML. What changes comes in parts, each rendered once for all who look in one language."""

from collections.abc import Mapping
from datetime import UTC, tzinfo
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from consumer.reports.story import Story
from consumer.web.chart import draw
from consumer.web.lead import chapters, refusal, verdict
from consumer.web.state import State
from consumer.web.texts import texts_in, zone_of

PARTS = ("state", "now", "figures")


class Pages:
    """Renders what the state has, at most once for each version and language."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._templates = Environment(
            loader=PackageLoader(__package__),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters["visible"] = visible
        self._rendered: dict[str, tuple[tuple[int, bool], dict[str, str]]] = {}

    def parts(self, language: str) -> Mapping[str, str]:
        """The parts that change while one looks, by name."""
        key = (self._state.version, self._state.is_old)
        found = self._rendered.get(language)
        if found is None or found[0] != key:
            words = self._words(language)
            parts = {name: self._templates.get_template(f"{name}.html").render(words) for name in PARTS}
            found = self._rendered[language] = (key, parts)
        return found[1]

    def overview(self, language: str) -> str:
        return self._page("overview", language, parts=self.parts(language))

    def lead(self, language: str, story: Story) -> str:
        texts = texts_in(language)
        told = chapters(story, texts) if story.lead is not None else ()
        return self._page("lead", language, lead_id=story.lead_id, chapters=list(told), verdict=verdict(story, texts))

    def error(self, language: str, key: str, lead_id: str = "") -> str:
        return self._page("error", language, error=texts_in(language)(key), lead_id=lead_id)

    def _page(self, name: str, language: str, **more: Any) -> str:
        return self._templates.get_template(f"{name}_page.html").render({"lead_id": ""} | self._words(language) | more)

    def _words(self, language: str) -> dict[str, Any]:
        texts = texts_in(language)
        figures = self._state.figures
        return {
            "texts": texts,
            "state": self._state,
            "look": self._state.look,
            "figures": figures,
            "chart": None if figures is None else draw(figures.board.days, texts),
            "refusal": lambda sqlstate: refusal(sqlstate, texts),
            "moment": lambda at: texts.moment(at, self._zone),
            "clock": lambda at: texts.clock(at, self._zone),
            "zone_name": self._zone_name,
        }

    @property
    def _zone(self) -> tzinfo:
        figures = self._state.figures
        return UTC if figures is None else zone_of(figures.report.business_time_zone)

    @property
    def _zone_name(self) -> str:
        return str(self._zone)


def visible(text: str) -> str:
    """What somebody wrote into a table, without characters that turn or hide what is beside them."""
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text)


def static_folder() -> str:
    return str(resources.files(__package__) / "static")
