"""The words of the page, in the languages that there is a catalogue for, and numbers and times as each writes them."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, tzinfo
from functools import cache
from importlib import resources
from typing import Any
from zoneinfo import ZoneInfo

LANGUAGES = ("en", "es")


@dataclass(frozen=True)
class Texts:
    """One language: `texts("key", name=…)` is its text, with what it names filled in."""

    language: str
    catalogue: Mapping[str, Any]

    def __call__(self, key: str, **particulars: Any) -> str:
        return str(self.catalogue[key]).format(**particulars)

    def number(self, value: float, digits: int = 0) -> str:
        plain = f"{value:,.{digits}f}"
        return plain.translate({ord(","): self("thousands_mark"), ord("."): self("decimal_mark")})

    def percent(self, share: float) -> str:
        return f"{self.number(share * 100, 1)}\N{NO-BREAK SPACE}%"

    def duration(self, seconds: float | None) -> str:
        """The largest unit that fits, two digits or more of it."""
        if seconds is None:
            return "\N{EN DASH}"
        for unit, size in (("days", 172_800.0), ("hours", 7_200.0), ("minutes", 120.0), ("seconds", 1.0)):
            if seconds >= size:
                value = seconds / {"days": 86_400, "hours": 3_600, "minutes": 60, "seconds": 1}[unit]
                return self(f"in_{unit}", n=self.number(value, 0 if value >= 10 else 1))  # noqa: PLR2004 # two digits
        return self("in_milliseconds", n=self.number(seconds * 1000))

    def day(self, day: date) -> str:
        return f"{day.day}\N{NO-BREAK SPACE}{self.catalogue['months'][day.month - 1]}"

    def moment(self, moment: datetime, zone: tzinfo) -> str:
        local = moment.astimezone(zone)
        return f"{self.day(local)}\N{NO-BREAK SPACE}{local:%Y}, {self.clock(moment, zone)}"

    def clock(self, moment: datetime, zone: tzinfo) -> str:
        local = moment.astimezone(zone)
        return f"{local:%H:%M}" if local.second == local.minute == 0 else f"{local:%H:%M:%S}"


def zone_of(name: str) -> tzinfo:
    """The zone of this name, or UTC where only the server knows it."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        return UTC


@cache
def texts_in(language: str) -> Texts:
    catalogue = resources.files(__package__) / "catalogues" / f"{language}.toml"
    return Texts(language, tomllib.loads(catalogue.read_text(encoding="utf-8")))


def choose_language(accepted: str) -> str:
    """Of the languages that there are, the one that an Accept-Language header prefers."""
    wishes = []
    for place, wish in enumerate(accepted[:500].split(",")):
        tag, _, parameters = wish.partition(";")
        language = tag.strip().lower().split("-")[0]
        wishes.append((-_quality(parameters), place, LANGUAGES[0] if language == "*" else language))
    known = (language for quality, _, language in sorted(wishes) if language in LANGUAGES and quality < 0)
    return next(known, LANGUAGES[0])


def _quality(parameters: str) -> float:
    name, _, value = parameters.strip().partition("=")
    try:
        return float(value) if name.strip() == "q" else 1.0
    except ValueError:
        return 0.0
