"""The process: opens the door, watches the database, and ends when it is asked to."""

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

import structlog
import uvicorn

from consumer.errors import SettingsError
from consumer.outage import Outage
from consumer.settings import Settings
from consumer.web.app import make_app
from consumer.web.state import State
from consumer.web.watcher import CONNECTIONS, Watcher
from db.engine import open_reader

log = structlog.get_logger(__name__)

AT_ONCE = 250
HEADER_BYTES = 16_384
IDLE_SECONDS = 10
GRACE_SECONDS = 3


@dataclass(frozen=True)
class Door:
    """Where it is reached. Only from this host, unless something in front of it knows who asks."""

    host: str
    port: int
    hosts: Sequence[str] = ()

    @property
    def is_loopback(self) -> bool:
        try:
            return self.host == "localhost" or ip_address(self.host).is_loopback
        except ValueError:
            return False

    def open(self) -> socket.socket:
        """Raises SettingsError where somebody else is there, or no such address."""
        try:
            kind, _, _, _, address = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)[0]
            return socket.create_server(address[:2], family=kind, backlog=100)
        except OSError as error:
            reason = error.strerror or str(error)
            raise SettingsError(f"cannot be reached at {self.host} port {self.port}: {reason}") from error


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Whoever started it takes the signals: uvicorn would raise them anew once it has ended."""
        yield


class _ToOurLog(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        log.log(record.levelno, "server.said", text=record.getMessage())


async def serve(settings: Settings, door: Door) -> None:
    """Serve until SIGTERM or SIGINT, and then for as long as GRACE_SECONDS to who is being answered.

    Raises SettingsError, or, before the database was seen once, db.connect.DatabaseError where no waiting helps.
    """
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    state = State()
    with door.open() as listening, open_reader(settings.database, "web", CONNECTIONS) as engine:
        app = make_app(engine, state, stopping, door.hosts)
        watcher = Watcher(engine, state, Outage(settings.outage_log_interval_seconds))
        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(watcher.watch())
            server = _Server(_configuration(app))
            serving = tasks.create_task(server.serve([listening]))
            log.info("web.started", host=door.host, port=listening.getsockname()[1])
            await stopping.wait()
            log.info("web.stopping")
            server.should_exit = True
            watching.cancel()
            await serving
    log.info("web.stopped")


def _configuration(app: object) -> uvicorn.Config:
    for name in ("uvicorn", "uvicorn.error", "uvicorn.asgi"):
        said = logging.getLogger(name)
        said.handlers, said.propagate, said.level = [_ToOurLog()], False, logging.WARNING
    return uvicorn.Config(
        app,  # type: ignore[arg-type] # an ASGI application, by any of its types
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=AT_ONCE,
        h11_max_incomplete_event_size=HEADER_BYTES,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
