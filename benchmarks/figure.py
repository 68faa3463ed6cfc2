"""A measured figure, the floor that was measured beside it, and the target that it is held to."""

from collections.abc import Iterable
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Figure:
    """What was measured: `value` in `unit`, and `held`, the number that has a target.

    `held` is a ratio wherever a machine's speed matters: to `floor`, which says what it was measured against. `most`
    or `least` is the target; where there is neither the figure is only told.
    """

    name: str
    value: float
    unit: str
    floor: str = ""
    held: float | None = None
    least: float | None = None
    most: float | None = None

    @property
    def is_reached(self) -> bool:
        return self.is_within(1)

    def is_within(self, factor: float) -> bool:
        """Whether the target is missed by no more than the factor."""
        if self.held is None:
            return True
        enough = self.least is None or self.held >= self.least / factor
        return enough and (self.most is None or self.held <= self.most * factor)

    @property
    def target(self) -> str:
        bounds = ((">=", self.least), ("<=", self.most))
        return " ".join(f"{sign} {bound:g}" for sign, bound in bounds if bound is not None)


def show(figures: Iterable[Figure]) -> None:
    table = Table("figure", "measured", "beside", "held", "target", "", box=None, pad_edge=False)
    for one in figures:
        table.add_row(
            one.name,
            f"{one.value:,.4g} {one.unit}" if one.value < 1000 else f"{one.value:,.0f} {one.unit}",
            one.floor,
            "" if one.held is None else f"{one.held:.2f}",
            one.target,
            "" if not one.target else "ok" if one.is_reached else "MISSED",
        )
    console = Console(highlight=False, markup=False)
    console = console if console.is_terminal else Console(highlight=False, markup=False, width=160)
    console.print(table)
