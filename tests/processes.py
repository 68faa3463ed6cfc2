"""The real processes, in the words of the tests: nothing here knows how they work inside."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import quote

import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from consumer import cli
from db.embedded import DISPOSABLE_SETTINGS, SHARED_TEMPORARY, EmbeddedServer, runnable_binaries, spawn_options

ELSEWHERE = tempfile.gettempdir()  # not the checkout: what runs is the installed package
PATIENCE_SECONDS = 30.0  # with what takes well under one, on a machine that has other work as well
PASSED_ON = ("PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH")
# Each needs a database that can be worked with.
WORKING = (
    *(("sweep",), ("reprocess", "some-lead"), ("status",), ("triggers", "status")),
    *(("parked", "list"), ("parked", "show", "some-lead"), ("parked", "retry", "--all")),
    *(("impact",), ("why", "some-lead"), ("sweep", "--dry-run"), ("reprocess", "--dry-run", "some-lead")),
)
SECRET = "Geheim77"  # so that it can be looked for

Found = TypeVar("Found")


def environment(url: str | None, **settings: str) -> dict[str, str]:
    """What a process finds around it: nothing of the developer's; `settings` by field name."""
    found = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    found |= {f"CABINET_RECOVERY_{name.upper()}": value for name, value in settings.items()}
    return found | {"LANG": "C.UTF-8"} | ({} if url is None else {"DATABASE_URL": url})


def run_command(
    *arguments: str, url: str | None = None, stdin: str | None = None, **settings: str
) -> subprocess.CompletedProcess[str]:
    """Run `consumer` with the arguments, to its end."""
    return run_python("-m", "consumer", *arguments, url=url, stdin=stdin, **settings)


def run_python(
    *arguments: str, url: str | None = None, stdin: str | None = None, **settings: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        check=False,
        capture_output=True,
        text=True,
        input=stdin or "",
        timeout=2 * PATIENCE_SECONDS,
        cwd=ELSEWHERE,
        env=environment(url, **settings),
    )


def started(*arguments: str, url: str, **settings: str) -> subprocess.Popen[str]:
    """Run `consumer` with the arguments, and do not wait for its end."""
    return subprocess.Popen(
        [sys.executable, "-m", "consumer", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ELSEWHERE,
        env=environment(url, **settings),
    )


class InThisProcess:
    """The command line, run in this process: for the many ways to call it wrongly, which come to no database."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capfd = capfd

    def __call__(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        self._capfd.readouterr()  # what others said before
        with self._monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["consumer", *arguments])
            patch.delenv("DATABASE_URL", raising=False)
            for name, value in variables.items():
                patch.setenv(name, value)
            with pytest.raises(SystemExit) as left:
                cli.main()
        said = self._capfd.readouterr()
        return subprocess.CompletedProcess(arguments, int(left.value.code or 0), said.out, said.err)


def refused(done: subprocess.CompletedProcess[str], status: int) -> str:
    """Return the one line in which a command said why it could not; nothing else may have been said."""
    assert done.returncode == status, done
    assert done.stdout == ""
    assert SECRET not in done.stderr
    (line,) = done.stderr.splitlines()
    assert re.match(r"consumer: \S", line), line
    return line.removeprefix("consumer: ")


def eventually(look: Callable[[], Found], seconds: float = PATIENCE_SECONDS) -> Found:
    """Look until something is found; each look is a question to a server, which sets the pace."""
    give_up = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < give_up, f"not found within {seconds} s: {found!r}"
    return found


@contextmanager
def own_server(**settings: str) -> Iterator[EmbeddedServer]:
    """A server that a test may stop and start: its data stay. Over TCP it asks for passwords."""
    with tempfile.TemporaryDirectory(prefix="crpg-", dir=SHARED_TEMPORARY) as folder:
        Path(folder).chmod(0o755)  # the server's account may be another one
        settings = DISPOSABLE_SETTINGS | settings
        with EmbeddedServer(Path(folder) / "data", settings=settings, listen_on_tcp=True) as server:
            yield server


@contextmanager
def standby_of(primary: EmbeddedServer, **settings: str) -> Iterator[EmbeddedServer]:
    """A copy of all that the primary has, which streams what comes and takes no writes."""
    with tempfile.TemporaryDirectory(prefix="crpg-", dir=SHARED_TEMPORARY) as folder:
        Path(folder).chmod(0o777)  # the server's account makes the data folder itself
        data = Path(folder) / "data"
        copy: list[str | Path] = [runnable_binaries() / "pg_basebackup", "--checkpoint=fast", "--write-recovery-conf"]
        copy += ["--pgdata", data, "--dbname", primary.url()]
        subprocess.run(copy, check=True, capture_output=True, **spawn_options())
        with EmbeddedServer(data, settings=DISPOSABLE_SETTINGS | settings) as standby:
            yield standby


def over_tcp(server: EmbeddedServer, conninfo: str, **changes: str) -> str:
    """The same database by way of 127.0.0.1, where there are passwords, as a URL."""
    parts = conninfo_to_dict(make_conninfo(conninfo, **changes))
    login = f"{quote(str(parts['user']), safe='')}:{quote(str(parts['password']), safe='')}"
    return f"postgresql://{login}@127.0.0.1:{server.port}/{parts['dbname']}"


class Daemon:
    """A `consumer run`, whose log is read as it is written; leaving the `with` block kills what is left of it.

    `variables` of the environment come beside the `settings`, which are given by field name. `command` is another way
    to the same daemon.
    """

    def __init__(
        self,
        url: str | None,
        variables: Mapping[str, str] | None = None,
        *,
        command: Sequence[str] = (sys.executable, "-m", "consumer", "run"),
        **settings: str,
    ) -> None:
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ELSEWHERE,
            env=environment(url, **settings) | dict(variables or {}),
        )
        self._lines: list[str] = []
        self._events: list[dict[str, Any]] = []
        self._ended = False
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def log(self) -> str:
        with self._changed:
            return "\n".join(self._lines)

    @property
    def plain_lines(self) -> list[str]:
        """What it said on stderr that is no JSON."""
        return [line for line in self.log.splitlines() if not line.startswith("{")]

    def events(self, name: str, **fields: Any) -> list[dict[str, Any]]:
        """Return the events of this name and with these fields that were logged until now."""
        with self._changed:
            return [one for one in self._events if one["event"] == name and fields.items() <= one.items()]

    def wait_for(
        self, name: str, timeout: float = PATIENCE_SECONDS, *, count: int = 1, **fields: Any
    ) -> dict[str, Any]:
        """Wait until the event was logged `count` times, from the start on, and return the last of these."""
        self._wait(lambda: len(self.events(name, **fields)) >= count, f"{count} x {name} {fields}", timeout)
        return self.events(name, **fields)[count - 1]

    def wait_for_leads(
        self, lead_ids: Iterable[str], outcome: str = "recovered", timeout: float = PATIENCE_SECONDS
    ) -> None:
        """Wait until each lead had the outcome. What a sweep recovers is logged at level debug only."""
        missing = set(lead_ids)

        def all_there() -> bool:
            missing.difference_update(one["lead_id"] for one in self.events(f"lead.{outcome}"))
            return not missing

        self._wait(all_there, f"{len(missing)} leads {outcome}", timeout)

    def wait_until_ready(self) -> Self:
        """Wait until it listens."""
        self.wait_for("listener.listening")
        return self

    def end(self, timeout: float = PATIENCE_SECONDS) -> int:
        """Wait until it has ended, and return its exit status."""
        status = self.process.wait(timeout)
        self._reader.join(timeout)
        return status

    def stop(self, number: signal.Signals = signal.SIGTERM, timeout: float = PATIENCE_SECONDS) -> int:
        """Ask it to end, and return its exit status."""
        self.process.send_signal(number)
        return self.end(timeout)

    def kill(self) -> None:
        self.process.kill()
        self.end()

    def _read(self) -> None:
        assert self.process.stderr
        with self.process.stderr as lines:
            for line in lines:
                with self._changed:
                    self._lines.append(line.rstrip("\n"))
                    if line.startswith("{"):
                        self._events.append(json.loads(line))
                    self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _wait(self, condition: Callable[[], bool], what: str, timeout: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: condition() or self._ended, timeout)
            assert condition(), f"waited for {what}; the log:\n{self.log}"
