"""What is due: a list that may be a million leads long, held as small as the server sent it."""

import json
import random
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

from db.listing import CHUNK


@dataclass(frozen=True, slots=True)
class DueLead:
    """A lead to be worked; without an event, it is due by its state alone."""

    lead_id: str
    has_event: bool


class DueList(Sequence[DueLead]):
    """Due leads in the order in which they are to be worked; a slice of it makes objects of those leads alone.

    Some 15 MB for a million ids of ten characters.
    """

    def __init__(self, rows: Iterable[Mapping[str, Any]] = ()) -> None:
        self._chunks = [(row["lead_ids"], row["have_events"]) for row in rows]
        self._length = sum(len(have_events) for _, have_events in self._chunks)

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> DueLead: ...
    @overload
    def __getitem__(self, index: slice) -> list[DueLead]: ...
    def __getitem__(self, index: int | slice) -> DueLead | list[DueLead]:
        if isinstance(index, int):
            place = range(self._length)[index]
            return self._unpacked(place // CHUNK)[place % CHUNK]
        start, stop, step = index.indices(self._length)
        first = start // CHUNK
        found = [lead for number in range(first, -(-stop // CHUNK)) for lead in self._unpacked(number)]
        return found[start - first * CHUNK : stop - first * CHUNK : step]

    def _unpacked(self, number: int) -> list[DueLead]:
        lead_ids, have_events = self._chunks[number]
        return [DueLead(*lead) for lead in zip(json.loads(lead_ids), map("1".__eq__, have_events), strict=True)]

    def __iter__(self) -> Iterator[DueLead]:
        for number in range(len(self._chunks)):
            yield from self._unpacked(number)


class Agenda:
    """What is left to do of a list, part by part in its order."""

    def __init__(self, leads: Sequence[DueLead], size: int) -> None:
        self._leads = leads
        self._size = size
        self._left = deque([range(len(leads))] if leads else [])

    def take(self) -> Sequence[DueLead]:
        """The next part; empty at the end."""
        if not self._left:
            return ()
        span = self._left.popleft()
        if len(span) > self._size:
            self._left.appendleft(span[self._size :])
        return self._leads[span.start : span.start + min(self._size, len(span))]

    def jump(self) -> None:
        """Go on somewhere else, and come back to this place in the end."""
        longest = max(self._left, key=len, default=range(0))
        if len(longest) > self._size:
            middle = random.randrange(self._size, len(longest))  # noqa: S311 # chance is no secret
            self._left.remove(longest)
            self._left.appendleft(longest[middle:])
            self._left.append(longest[:middle])

    def drop(self) -> None:
        """Leave the rest undone."""
        self._left.clear()
