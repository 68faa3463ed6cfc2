"""The impact as a page of its own: one file, its charts within, nothing loaded from anywhere."""

import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement, tostring

from consumer.reports.impact import BUCKETS, REASONS, Day, ImpactReport
from consumer.reports.impact_tables import in_words, period_of

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem; color: #1d2733 }
h1 { font-size: 1.5rem } h2 { font-size: 1.1rem; margin-top: 2.5rem }
table { border-collapse: collapse; width: 100% } th, td { padding: .25rem .75rem .25rem 0; text-align: left }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums }
tr + tr td { border-top: 1px solid #e3e8ee } svg { width: 100%; height: auto }
svg text { font: 11px sans-serif; fill: #526071 }
"""
COLOURS = {
    "unidentified": "#c9d1da",
    "recovered_within_14d": "#2f7d5b",
    "recovered_late": "#d08a2e",
}
WIDTH, HEIGHT, FOOT = 900, 180, 20


def write_page(report: ImpactReport, path: Path) -> None:
    """Put the page in the file's place in one step: whoever reads it sees the old one or the new one, whole.

    A link stays one, to the new page; what is no file, such as /dev/stdout, is written to. Raises OSError, and then
    leaves the old one.
    """
    if path.exists() and not path.is_file():
        path.write_text(as_html(report), encoding="utf-8")
        return
    path = path.resolve()
    descriptor, draft = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(as_html(report))
            os.fchmod(file.fileno(), 0o666 & ~_umask())  # a draft is its owner's alone; a page is for a web server
        Path(draft).replace(path)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise


def _umask() -> int:
    os.umask(umask := os.umask(0o077))
    return umask


def as_html(report: ImpactReport) -> str:
    page = Element("html", lang="en")
    head, body = SubElement(page, "head"), SubElement(page, "body")
    SubElement(head, "meta", charset="utf-8")
    SubElement(head, "meta", name="viewport", content="width=device-width")
    _add(head, "title", title := f"Cabinet recovery: {period_of(report)}")
    _add(head, "style", STYLE)
    _add(body, "h1", title)
    _add(
        body, "p", f"As of {report.read_at:%Y-%m-%d %H:%M:%S %Z}; days by the calendar of {report.business_time_zone}."
    )
    _add_buckets(body, report)
    _add_days(body, report)
    _add_times(body, report)
    _add_reasons(body, report)
    return "<!doctype html>\n" + tostring(page, encoding="unicode", method="html") + "\n"


def _add_buckets(body: Element, report: ImpactReport) -> None:
    _add(body, "h2", "Impact within 14 days")
    rows = [
        (one.impact_bucket, f"{one.leads}", f"{one.share:.1%}", BUCKETS[one.impact_bucket]) for one in report.buckets
    ]
    _add_table(body, ("bucket", "leads", "share", ""), [*rows, ("total", f"{report.totals.total_leads}", "", "")])


def _add_days(body: Element, report: ImpactReport) -> None:
    _add(body, "h2", "By lead_date")
    if report.series:
        _add_chart(body, list(reversed(report.series)))
    legend = SubElement(body, "p")
    for kind, colour in COLOURS.items():
        _add(legend, "span", "\N{BLACK SQUARE} ").set("style", f"color:{colour}")
        _add(legend, "span", kind.replace("_", " ") + "   ")
    rows = [(f"{day.date}", *map(str, (day.leads, *_parts(day), day.claims))) for day in report.series]
    _add_table(body, ("lead_date", "leads", *COLOURS, "claims"), rows)


def _parts(day: Day) -> tuple[int, ...]:
    """What the column of a day is made of, from below."""
    return tuple(getattr(day, kind) for kind in COLOURS)


def _add_chart(body: Element, days: Sequence[Day]) -> None:
    most = max((sum(_parts(day)) for day in days), default=0) or 1
    chart = SubElement(body, "svg", viewBox=f"0 0 {WIDTH} {HEIGHT + FOOT}", role="img")
    step = WIDTH / len(days)
    for number, day in enumerate(days):
        _add_column(chart, day, (number * step, step * 0.8, (HEIGHT - 10) / most))
    for day, x, anchor in ((days[0], 0, "start"), (days[-1], WIDTH, "end")):
        place = {"x": f"{x}", "y": f"{HEIGHT + FOOT - 4}", "text-anchor": anchor}
        _add(chart, "text", f"{day.date}").attrib.update(place)


def _add_column(chart: Element, day: Day, place: tuple[float, float, float]) -> None:
    left, width, height_of_one = place
    column = SubElement(chart, "g")
    told = (f"{leads} {kind}" for kind, leads in zip(COLOURS, _parts(day), strict=True))
    _add(column, "title", f"{day.date}: {', '.join(told)}")
    foot = float(HEIGHT)
    for leads, colour in zip(_parts(day), COLOURS.values(), strict=True):
        height = leads * height_of_one
        foot -= height
        box = {"x": f"{left:.1f}", "y": f"{foot:.1f}", "width": f"{width:.1f}", "height": f"{height:.1f}"}
        SubElement(column, "rect", box, fill=colour)


def _add_times(body: Element, report: ImpactReport) -> None:
    _add(body, "h2", "Time to recovery")
    named = (("from match", report.times.match_to_recovery), ("from lead", report.times.lead_to_recovery))
    rows = [(name, f"{one.leads}", in_words(one.median_seconds), in_words(one.p90_seconds)) for name, one in named]
    _add_table(body, ("", "leads", "median", "90 % within"), rows)


def _add_reasons(body: Element, report: ImpactReport) -> None:
    _add(body, "h2", "Why leads are not recovered")
    _add_table(body, ("reason", "leads", ""), [(name, f"{n}", REASONS[name]) for name, n in report.top_reasons.items()])


def _add_table(body: Element, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    table = SubElement(body, "table")
    for cells, kind in ((header, "th"), *((row, "td") for row in rows)):
        line = SubElement(table, "tr")
        for number, text in enumerate(cells):
            cell = _add(line, kind, text)
            if number and header[number]:
                cell.set("class", "number")


def _add(parent: Element, tag: str, text: str) -> Element:
    child = SubElement(parent, tag)
    child.text = text
    return child
