"""Ask what runs in this container whether it is alive; without an endpoint there is nothing to ask.

The daemon is asked at its address of metrics; another address and path may be given as arguments.
"""

import http.client
import os
import sys

SECONDS = 5.0


def alive(address: str, path: str = "/livez") -> bool:
    host, _, port = address.rpartition(":")
    everywhere = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104 - where it listens
    connection = http.client.HTTPConnection(everywhere.get(host, host), int(port), timeout=SECONDS)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.client.OK
    except OSError:
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    if sys.argv[1:]:
        sys.exit(0 if alive(*sys.argv[1:]) else 1)
    given = os.environ.get("CABINET_RECOVERY_METRICS_ADDRESS", "").strip()
    sys.exit(0 if not given or alive(given) else 1)
