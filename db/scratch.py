"""A PostgreSQL to try things on: `python -m db.scratch` runs one until Ctrl-C, and nothing of it stays."""

import signal
import sys
from contextlib import suppress

from db.embedded import EmbeddedServer, ServerFailed, ServerUnavailable, runnable_binaries


def main() -> None:
    """Print how a shell reaches the server and its programs, as lines to paste there; then wait for a signal."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    with suppress(KeyboardInterrupt), EmbeddedServer() as server:
        print(f"export DATABASE_URL='{server.url()}'")  # noqa: T201 # for people to paste
        print(f"export PATH='{runnable_binaries()}':\"$PATH\"", flush=True)  # noqa: T201
        signal.pause()


if __name__ == "__main__":
    try:
        main()
    except (ServerUnavailable, ServerFailed) as error:
        sys.exit(str(error))
