"""The HTTP endpoint of the daemon: a few small pages, for machines on a trusted network."""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus

import structlog

from consumer.errors import SettingsError

log = structlog.get_logger(__name__)

REQUEST_SECONDS = 5.0
REQUEST_BYTES = 8192
MOST_OPEN = 64
PAUSE_SECONDS = 0.02  # between two connections: what it may cost the event loop, however many come
REFUSED_SECONDS = 1.0
BACKLOG = 64
TEXT = "text/plain; charset=utf-8"


@dataclass(frozen=True)
class Page:
    """An answer."""

    body: bytes
    status: HTTPStatus = HTTPStatus.OK
    content_type: str = TEXT


class Endpoint:
    """Answers GET and HEAD of the pages it is given, each connection once.

    It shares the event loop with the roles, and so that it cannot harm them: fifty connections a second at most
    (others wait in the kernel), 64 at a time (the oldest makes room), each of them done within five seconds and asking
    in no more than 8 KiB. There is no TLS and no password: it belongs on loopback or on a trusted network.
    """

    def __init__(self, pages: Mapping[str, Callable[[], Page]]) -> None:
        self._pages = pages
        self._open: dict[asyncio.Task[None], None] = {}

    async def serve(self, listening: socket.socket) -> None:
        """Serve until cancelled."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                try:
                    peer, _ = await loop.sock_accept(listening)
                except OSError as error:  # no file is left to be opened, perhaps
                    log.warning("endpoint.refused", reason=error.strerror)
                    await asyncio.sleep(REFUSED_SECONDS)
                    continue
                self._take(peer)
                await asyncio.sleep(PAUSE_SECONDS)
        finally:
            listening.close()
            for task in self._open:
                task.cancel()

    def _take(self, peer: socket.socket) -> None:
        if len(self._open) >= MOST_OPEN:
            next(iter(self._open)).cancel()
        task = asyncio.create_task(self._converse(peer), name="endpoint")
        self._open[task] = None
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[None]) -> None:
        del self._open[task]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("endpoint.failed", exc_info=error)  # a defect, which is no reason to stop recovering

    async def _converse(self, peer: socket.socket) -> None:
        # Who is too slow, asks too much or goes away gets no answer, and nobody here is told.
        with contextlib.suppress(OSError, TimeoutError):
            reader, writer = await asyncio.open_connection(sock=peer, limit=REQUEST_BYTES)
            try:
                async with asyncio.timeout(REQUEST_SECONDS):
                    writer.write(await self._answer(reader))
                    writer.write_eof()
                    await writer.drain()
                    writer.close()
                    await writer.wait_closed()
            finally:
                writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader) -> bytes:
        try:
            request = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            return _response(_plain(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE))
        except asyncio.IncompleteReadError:
            return _response(_plain(HTTPStatus.BAD_REQUEST))
        words = request.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
        if len(words) != len(("method", "target", "version")) or not words[2].startswith("HTTP/1."):
            return _response(_plain(HTTPStatus.BAD_REQUEST))
        method, target, _ = words
        return _response(self._find(method, target), with_body=method != "HEAD")

    def _find(self, method: str, target: str) -> Page:
        if method not in {"GET", "HEAD"}:
            return _plain(HTTPStatus.METHOD_NOT_ALLOWED)
        page = self._pages.get(target.split("?", 1)[0])
        return page() if page else _plain(HTTPStatus.NOT_FOUND, " ".join(self._pages))


def _plain(status: HTTPStatus, more: str = "") -> Page:
    return Page(f"{status.phrase}\n{more}".rstrip().encode() + b"\n", status)


def _response(page: Page, *, with_body: bool = True) -> bytes:
    head = (
        f"HTTP/1.1 {page.status.value} {page.status.phrase}\r\n"
        f"Content-Type: {page.content_type}\r\n"
        f"Content-Length: {len(page.body)}\r\n"
        "Cache-Control: no-store\r\n"
        "Connection: close\r\n\r\n"
    )
    return head.encode() + (page.body if with_body else b"")


async def open_listening(host: str, port: int, variable: str) -> socket.socket:
    """Bind now, so that an address that cannot be had is told of at the start: raises SettingsError."""
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, *_, address = found[0]
        listening = socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except OSError as error:
        raise SettingsError(f"{variable}: {host}:{port} cannot be served: {error.strerror or error}") from error
    listening.setblocking(False)  # noqa: FBT003 # its name for it
    return listening
