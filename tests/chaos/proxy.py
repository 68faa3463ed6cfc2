"""The network between the service and its server, and what can happen to it: a TCP proxy that holds, drips and cuts."""

import asyncio
import socket
import struct
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal, Self

Direction = Literal["to server", "to client"]
BOTH: tuple[Direction, ...] = ("to server", "to client")
CHUNK = 65_536
RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER with no time: closing sends RST


@dataclass
class Way:
    """One direction of all connections: whether anything gets through, in what pieces and how late."""

    is_open: asyncio.Event = field(default_factory=asyncio.Event)
    piece: int = CHUNK
    delay_seconds: float = 0.0

    async def carry(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        """Pass on all that comes, and its end. While held, nothing is forwarded and nothing is
        closed, as where packets are dropped on the way and sent again.
        """
        with suppress(OSError):  # what one side cuts is cut for the other as well
            while data := await source.read(CHUNK):
                await asyncio.sleep(self.delay_seconds)
                for start in range(0, len(data), self.piece):
                    await self.is_open.wait()
                    target.write(data[start : start + self.piece])
                    await target.drain()
        await self.is_open.wait()
        target.close()


class Proxy:
    """Listens on a port of 127.0.0.1 and connects to another one for each client; runs in a thread of its own."""

    def __init__(self, target_port: int) -> None:
        self.port = 0
        self._target_port = target_port
        self._loop = asyncio.new_event_loop()
        self._ways: dict[Direction, Way] = {direction: Way() for direction in BOTH}
        self._writers: set[asyncio.StreamWriter] = set()
        self._thread = threading.Thread(target=self._run)
        self._is_listening = threading.Event()

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._is_listening.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def hold(self, directions: Iterable[Direction] = BOTH) -> None:
        """Let nothing through in these directions, neither data nor the end of a connection."""
        self._do(lambda: [self._ways[direction].is_open.clear() for direction in directions])

    def release(self) -> None:
        """Let everything through again, what was held back first."""
        self._do(lambda: [way.is_open.set() for way in self._ways.values()])

    def drip(self, piece: int = 1) -> None:
        """Send so many bytes at a time, each in a packet of its own."""
        self._do(lambda: [setattr(way, "piece", piece) for way in self._ways.values()])

    def delay(self, seconds: float) -> None:
        """Let what comes pass so much later, in both directions."""
        self._do(lambda: [setattr(way, "delay_seconds", seconds) for way in self._ways.values()])

    def reset(self) -> None:
        """End every connection with RST, on both sides."""
        self._do(lambda: [_reset(writer) for writer in self._writers])

    def _do(self, change: Callable[[], Any]) -> None:
        async def do() -> None:
            change()

        asyncio.run_coroutine_threadsafe(do(), self._loop).result(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        for way in self._ways.values():
            way.is_open.set()
        server = self._loop.run_until_complete(asyncio.start_server(self._connect, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        self._is_listening.set()
        self._loop.run_forever()
        server.close()
        self._loop.run_until_complete(self._end_all())
        self._loop.close()

    async def _connect(self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        try:
            from_server, to_server = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:
            _reset(to_client)
            return
        ends = {to_client, to_server}
        for writer in ends:
            _socket(writer).setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._writers |= ends
        await asyncio.gather(
            self._ways["to server"].carry(from_client, to_server),
            self._ways["to client"].carry(from_server, to_client),
        )
        self._writers -= ends
        for writer in ends:
            writer.close()

    async def _end_all(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.sleep(0)  # the transports close in the loop's next turn


def _socket(writer: asyncio.StreamWriter) -> Any:
    return writer.get_extra_info("socket")


def _reset(writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):  # it is closed already
        _socket(writer).setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    writer.transport.abort()
