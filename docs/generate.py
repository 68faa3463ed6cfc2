"""Writes the tables of docs/reference.md that say what the code says: `make docs`; --check only compares."""

import sys
from collections.abc import Iterator
from dataclasses import MISSING, fields
from pathlib import Path

from consumer.monitoring.metrics import GAUGES, Metrics
from consumer.settings import Settings, allowed, is_address, variable_of

REFERENCE = Path(__file__).parent / "reference.md"


def settings() -> Iterator[str]:
    yield "| variable | default | takes | what |"
    yield "| --- | --- | --- | --- |"
    for setting in fields(Settings):
        default = "" if setting.default in {MISSING, None, ""} else setting.default
        takes = "an address" if is_address(setting) else allowed(setting)
        yield f"| `{variable_of(setting)}` | {default} | {takes} | {setting.metadata['help']} |"


def metrics() -> Iterator[str]:
    yield "| metric | type | labels | what |"
    yield "| --- | --- | --- | --- |"
    nothing_known = Metrics(dict.fromkeys(GAUGES, lambda: None), lambda: {"listener": 1})
    for family in nothing_known.collect():
        name = family.name + {"counter": "_total", "info": "_info"}.get(family.type, "")
        labels = {f"`{label}`" for sample in family.samples for label in sample.labels if label != "le"}
        kind = {"info": "gauge"}.get(family.type, family.type)
        yield f"| `{name}` | {kind} | {' '.join(sorted(labels))} | {family.documentation} |"


def renewed(text: str) -> str:
    """The text with every table between its marks as it is to be."""
    for name, lines in {"settings": settings(), "metrics": metrics()}.items():
        begin, end = f"<!-- {name}, by make docs -->\n", f"\n<!-- end of {name} -->"
        before, begun, rest = text.partition(begin)
        _, ended, after = rest.partition(end)
        if not (begun and ended):
            raise SystemExit(f"{REFERENCE}: the marks of {name} are missing")
        text = before + begin + "\n".join(lines) + end + after
    return text


if __name__ == "__main__":
    before = REFERENCE.read_text(encoding="utf-8")
    after = renewed(before)
    if "--check" not in sys.argv:
        REFERENCE.write_text(after, encoding="utf-8")
    elif before != after:
        raise SystemExit(f"{REFERENCE.name} is out of date: make docs")
