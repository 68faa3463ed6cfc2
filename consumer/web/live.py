"""The stream that keeps an open page true: server-sent events, each a part of the page that has changed."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from consumer.web.pages import PARTS, Pages
from consumer.web.state import State

STREAMS = 100
LOOK_SECONDS = 2.0  # by then an old state is told of, and a reader who is gone is noticed by a line sent
SILENCE = ": nothing new\n\n"


@dataclass
class Live:
    """The open streams: so many and no more, and all of them end when we are asked to."""

    state: State
    pages: Pages
    stopping: asyncio.Event
    streams: int = field(default=0)

    @property
    def is_full(self) -> bool:
        return self.streams >= STREAMS

    async def stream(self, language: str) -> AsyncIterator[str]:
        """All parts at first, since much may have changed while nobody was connected; then those that change."""
        self.streams += 1
        try:
            sent: dict[str, str] = {}
            yield "retry: 2000\n\n"
            while not self.stopping.is_set():
                version = self.state.version
                parts = self.pages.parts(language)
                changed = [name for name in PARTS if sent.get(name) != parts[name]]
                sent.update(parts)
                yield "".join(_event(name, parts[name]) for name in changed) or SILENCE
                await self._next(version)
        finally:
            self.streams -= 1

    async def _next(self, version: int) -> None:
        stopping = asyncio.ensure_future(self.stopping.wait())
        waiting = asyncio.ensure_future(self.state.wait(version, LOOK_SECONDS))
        try:
            await asyncio.wait({stopping, waiting}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            waiting.cancel()


def _event(name: str, html: str) -> str:
    lines = "".join(f"data: {line}\n" for line in html.splitlines())
    return f"event: {name}\n" + (lines or "data:\n") + "\n"
