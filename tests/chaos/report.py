"""The account of all faults: each a row, whichever process its test ran in; together the table that is printed."""

import json
import os
import secrets
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

ROWS_FOLDER = "CHAOS_ROWS"  # variables of the environment, which the workers of pytest-xdist inherit
TABLE_FILE = "CHAOS_TABLE"
MARKERS = ("<!-- table of make chaos: begin -->", "<!-- table of make chaos: end -->")

# Each fault's name starts with one of these.
GROUPS = ("consumer", "adaptive", "server", "network", "locks", "scale", "topology", "sequences", "soak")
HEADINGS = (
    *("fault", "struck", "matches", "lost", "doubled", "engine's aborts"),
    *("recovered after, median", "worst", "longest wait", "next match"),
)


@dataclass(frozen=True)
class Row:
    """What a fault came to. Seconds: from its end until all matches committed in it were recovered, one for each
    time it struck; the longest that any match waited, from commit to commit; and the first match after each.
    """

    fault: str
    matches: int
    lost: int
    doubled: int
    aborts: int
    recovered_after: list[float]
    longest_wait: float
    next_match: list[float]

    def record(self) -> None:
        folder = Path(os.environ.get(ROWS_FOLDER, tempfile.gettempdir()))
        (folder / f"chaos-{secrets.token_hex(8)}.json").write_text(json.dumps(asdict(self)))

    def __add__(self, other: "Row") -> "Row":
        """Both as one, of faults that struck in trials of their own."""
        return Row(
            self.fault,
            self.matches + other.matches,
            self.lost + other.lost,
            self.doubled + other.doubled,
            self.aborts + other.aborts,
            self.recovered_after + other.recovered_after,
            max(self.longest_wait, other.longest_wait),
            self.next_match + other.next_match,
        )

    def cells(self) -> list[str]:
        return [
            self.fault,
            *map(str, (len(self.recovered_after), self.matches, self.lost, self.doubled, self.aborts)),
            duration(statistics.median(self.recovered_after)),
            duration(max(self.recovered_after)),
            duration(self.longest_wait),
            duration(max(self.next_match)),
        ]


def duration(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def rows_of(folder: Path) -> list[Row]:
    """Return what was recorded, one row per fault."""
    rows: dict[str, Row] = {}
    for path in folder.glob("chaos-*.json"):
        row = Row(**json.loads(path.read_text()))
        rows[row.fault] = rows[row.fault] + row if row.fault in rows else row
    return sorted(rows.values(), key=lambda row: (GROUPS.index(row.fault.split(":")[0]), row.fault))


def table(rows: list[Row]) -> Iterator[str]:
    """A table that reads well as Markdown and on a terminal."""
    lines = [list(HEADINGS), *(row.cells() for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    for cells in lines:
        yield "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"


def write_into(document: Path, rows: list[Row]) -> None:
    """Put the table between the two markers of the document, in place of the one before."""
    before, rest = document.read_text().split(MARKERS[0])
    _, after = rest.split(MARKERS[1])
    document.write_text("\n".join([before + MARKERS[0], "", *table(rows), "", MARKERS[1] + after]))
