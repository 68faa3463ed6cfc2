"""What systemd is told, where it has started us: ready, still waiting, alive, stopping.

The protocol is sd_notify(3): datagrams of NAME=value lines to the socket that NOTIFY_SOCKET names. Elsewhere all of
this does nothing.
"""

import os
import socket
from collections.abc import Mapping

import structlog

log = structlog.get_logger(__name__)


class ServiceManager:
    """The systemd that waits for us to be ready, and for a sign of life every `watchdog_seconds` (None: for none)."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        # An @ stands for the null byte of an abstract socket.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        is_for_us = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        microseconds = environment.get("WATCHDOG_USEC", "")
        self.watchdog_seconds = int(microseconds) / 1e6 if is_for_us and microseconds.isdigit() else None

    def tell(self, **fields: str | int) -> None:
        """Send the fields, in capitals; a manager that does not take them is no reason to fail."""
        if not self._address:
            return
        text = "\n".join(f"{name.upper()}={value}" for name, value in fields.items())
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as door:
                door.sendto(text.encode(), self._address)
        except OSError as error:
            log.debug("service_manager.deaf", reason=str(error))
