"""The site's process, and who asks it, in the words of the tests."""

import http.client
import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from tests.processes import PATIENCE_SECONDS, Daemon, eventually


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)


class Site(Daemon):
    """A `consumer web` at a port of its own choice; `options` are those of its command line."""

    def __init__(self, url: str, *options: str) -> None:
        super().__init__(url, command=(sys.executable, "-m", "consumer", "web", "--port", "0", *options))

    @property
    def port(self) -> int:
        return int(self.wait_for("web.started")["port"])

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def ask(self, path: str = "/", method: str = "GET", **headers: str) -> Answer:
        """Headers by name, with _ for -."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_SECONDS)
        try:
            connection.request(method, path, headers=named)
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, found, answer.read().decode())
        finally:
            connection.close()

    def wait_until_read(self) -> "Site":
        """Wait until it has figures."""
        eventually(lambda: self.ask(IMPACT).status == 200)
        return self

    @contextmanager
    def stream(self) -> Iterator["Stream"]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_SECONDS)
        try:
            connection.request("GET", "/live")
            yield Stream(connection.getresponse())
        finally:
            connection.close()


IMPACT = "/api/v1/yango/cabinet/identity-recovery-impact-14d"


class Stream:
    def __init__(self, answer: http.client.HTTPResponse) -> None:
        self.answer = answer

    def wait_for(self, *texts: str) -> float:
        """Read until lines had each of the texts, in whatever order; how many seconds that took."""
        started, missing = time.monotonic(), set(texts)
        for line in iter(self.answer.readline, b""):
            missing -= {text for text in missing if text in line.decode()}
            if not missing:
                return time.monotonic() - started
        raise AssertionError(f"the stream ended without {missing}")
