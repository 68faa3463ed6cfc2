"""Being asked to stop, by SIGINT or SIGTERM, in the midst of long work."""

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from consumer.errors import ExitCode


class Interruption:
    """Notes the first signal, for the work to end when it suits; a second one ends the process as ever, at once."""

    def __init__(self) -> None:
        self.number: signal.Signals | None = None
        self._came = asyncio.Event()

    @contextmanager
    def heeded(self) -> Iterator[None]:
        """Take the signals while the block runs; only for the main thread, within its event loop."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._note, number)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

    @property
    def exit_code(self) -> ExitCode:
        return ExitCode.after(self.number or signal.SIGTERM)

    @property
    def is_asked(self) -> bool:
        return self._came.is_set()

    async def rest(self, seconds: float) -> bool:
        """Rest so long, or until asked to stop; tell whether to go on."""
        if seconds > 0:
            try:
                async with asyncio.timeout(seconds):
                    await self._came.wait()
            except TimeoutError:
                pass
        return not self.is_asked

    async def came(self) -> None:
        await self._came.wait()

    def _note(self, number: signal.Signals) -> None:
        if self.is_asked:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.number = number
        self._came.set()
