"""The proof of life: what is sent through the server comes back to the listener, and in time."""

import asyncio
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

from db.connect import Connection, Unreachable
from db.liveness import sever

log = structlog.get_logger(__name__)

OVERSLEPT_SECONDS = 1.0


class NothingArrives(Unreachable):
    """The listener's connection seems to stand, but what is sent to it does not arrive."""


class Proof:
    """Watches over the listener's connection: without a proof in time it is cut, and must be made anew.

    A half-open socket, a lost registration, a transaction pooler, a server that is not the one that the others work
    on: from here all of them look like silence. Only a nonce that was sent on another connection, and comes back,
    tells them from a quiet day. Its channel is unguessable, so that nobody else can vouch for us.
    """

    def __init__(self, interval_seconds: float, timeout_seconds: float, on_change: Callable[[], None]) -> None:
        self.channel = f"cabinet_recovery_proof_{secrets.token_hex(8)}"
        self.timeout_seconds = timeout_seconds
        self.is_proved = False
        self.interval_seconds = interval_seconds
        self._on_change = on_change
        self._wanted = asyncio.Event()
        self._nonce = ""
        self._listening: Connection | None = None
        self._proving: Connection | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._reason: str | None = None

    @property
    def patience_seconds(self) -> float:
        """How old the last proof may become."""
        return self.interval_seconds + self.timeout_seconds

    # The listener's side.

    @contextmanager
    def demanded_of(self, connection: Connection) -> Iterator[None]:
        """Cut the connection unless proofs keep arriving; then NothingArrives, which says why, leaves the block."""
        self._listening, self._reason, self._nonce = connection, None, ""
        self._set_alarm(self.patience_seconds)
        self._wanted.set()
        try:
            yield
        except Exception as error:
            if self._reason is not None:
                raise NothingArrives(self._reason) from error
            raise
        finally:
            self._listening = None
            self._clear_alarm()
            self._become(is_proved=False)

    def receive(self, nonce: str) -> bool:
        """Take in what came back, and tell whether it is a proof: only the nonce that is waited for is one."""
        is_proof = nonce == self._nonce != ""
        if is_proof:
            self._nonce = ""
            self._set_alarm(self.patience_seconds)
            self._become(is_proved=True)
        return is_proof

    # The prober's side.

    def challenge(self, connection: Connection) -> str:
        """The nonce to be sent by this connection: a new one, unless the last may still be on its way."""
        self._wanted.clear()
        self._proving = connection
        self._nonce = self._nonce or secrets.token_hex(8)
        return self._nonce

    def sent(self, nonce: str) -> None:
        """Take in that the server has the nonce: from now on it may only be a moment."""
        if nonce == self._nonce and self._listening is not None and self._alarm is not None:
            # Never later than it was: sent again before its time was over, it would never have to come back.
            left_seconds = self._alarm.when() - asyncio.get_running_loop().time()
            self._set_alarm(min(self.timeout_seconds, left_seconds))

    async def rest(self) -> None:
        """Wait until the next proof is wanted: at once for a new connection, else after the interval."""
        try:
            async with asyncio.timeout(self.interval_seconds):
                await self._wanted.wait()
        except TimeoutError:
            pass

    def _become(self, *, is_proved: bool) -> None:
        if is_proved != self.is_proved:
            self.is_proved = is_proved
            if is_proved:
                log.info("listener.proved")
            self._on_change()

    def _set_alarm(self, seconds: float) -> None:
        self._clear_alarm()
        loop = asyncio.get_running_loop()
        self._alarm = loop.call_later(seconds, self._ring, loop.time() + seconds)

    def _clear_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()

    def _ring(self, due: float) -> None:
        if asyncio.get_running_loop().time() - due > OVERSLEPT_SECONDS:
            # It was we who did not live meanwhile: what came may still be unread.
            self._wanted.set()
            self._set_alarm(self.timeout_seconds)
        elif self._listening is not None:
            self._reason = self._diagnose(self._listening, self._proving)
            sever(self._listening)

    def _diagnose(self, listening: Connection, proving: Connection | None) -> str:
        if listening.is_pooled:
            return (
                "LISTEN succeeded but nothing arrives: a transaction pooler stands between us and the server; set "
                "CABINET_RECOVERY_LISTENER_DATABASE_URL to the server's own address"
            )
        if proving is not None and not proving.closed and proving.server != listening.server:
            return (
                "LISTEN succeeded but nothing arrives: the listener is connected to another server or database than "
                "the worker; see DATABASE_URL and CABINET_RECOVERY_LISTENER_DATABASE_URL"
            )
        return f"nothing sent through the server came back to the listener within {self.timeout_seconds:.0f} s"
