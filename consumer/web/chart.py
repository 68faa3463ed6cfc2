"""The columns of the chart, as the page draws them: shares of the chart's height, and what each tells."""

from collections.abc import Sequence
from dataclasses import dataclass

from consumer.web.texts import Texts
from db.board import Recoveries

ROUND = (1, 2, 5)


@dataclass(frozen=True)
class Column:
    """A day: from above, the tops and heights of its two parts, in hundredths of the chart."""

    title: str
    late_top: float
    late_height: float
    in_time_top: float
    in_time_height: float


@dataclass(frozen=True)
class Chart:
    most: int
    columns: Sequence[Column]


def draw(days: Sequence[Recoveries], texts: Texts) -> Chart:
    most = _round_up(max((day.in_time + day.late for day in days), default=0))
    return Chart(most, [_column(day, most, texts) for day in days])


def _column(day: Recoveries, most: int, texts: Texts) -> Column:
    in_time, late = 100 * day.in_time / most, 100 * day.late / most
    title = texts(
        "column",
        day=texts.day(day.day),
        in_time=texts.number(day.in_time),
        late=texts.number(day.late),
        median=texts.duration(day.median_seconds),
    )
    return Column(title, 100 - in_time - late, late, 100 - in_time, in_time)


def _round_up(most: int) -> int:
    """The next number that is easy to read off an axis."""
    step = 1
    while True:
        for number in ROUND:
            if number * step >= most and number * step > 1:
                return number * step
        step *= 10
