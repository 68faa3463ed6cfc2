"""A real systemd, booted for the tests over a throw-away copy of this machine, in the words of the tests."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
from psycopg.conninfo import make_conninfo

from db.embedded import DISPOSABLE_SETTINGS, SHARED_TEMPORARY, EmbeddedServer, spawn_options
from tests.processes import PATIENCE_SECONDS, eventually

CHECKOUT = Path(__file__).parents[1]
BOX = CHECKOUT / ".ci" / "systemd-box"
CANNOT_BE_HAD = 69
# An operator's; the developer's own may lie in a home folder, of which the service sees nothing.
PYTHON = Path("/usr/bin/python3")


class Unavailable(Exception):
    """No systemd can be booted here; the text says why."""


class Box:
    """A booted systemd; what is done to its files and units is gone with it. It has no network but its own loopback."""

    def __init__(self, home: Path) -> None:
        self._home = home

    def call(self, *command: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command inside, as root, to its end; whoever asks for a password there gets it from `stdin`."""
        options = {"capture_output": True, "text": True, "timeout": 60, "start_new_session": True}
        return subprocess.run([BOX, "run", self._home, *command], check=False, input=stdin, **options)

    @contextmanager
    def following(self, seconds: float, *command: str) -> Iterator[Iterable[str]]:
        """Yield the lines of a command inside as it says them; it is ended after the block, or after these seconds."""
        patient = [BOX, "run", self._home, "timeout", "--foreground", str(seconds), *command]
        with subprocess.Popen(patient, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
            assert process.stdout
            try:
                yield process.stdout
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)

    def run(self, *command: str, stdin: str = "") -> str:
        """Run a command inside that must succeed, and return what it said."""
        done = self.call(*command, stdin=stdin)
        assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        return done.stdout

    def shell(self, script: str, *, stdin: str = "", folder: str = "/", **environment: str) -> str:
        """Run lines of shell inside, each of which must succeed."""
        variables = [f"{name}={value}" for name, value in environment.items()]
        return self.run("env", f"--chdir={folder}", *variables, "sh", "-euc", script, stdin=stdin)

    def write(self, path: str, text: str, mode: str = "644") -> None:
        self.run("install", "-D", "-m", mode, "/dev/stdin", path, stdin=text)


class Unit:
    """A unit in the box; its journal is told from when this object was made."""

    def __init__(self, box: Box, name: str) -> None:
        self.name = name
        self._box = box
        self._section = "[Timer]" if name.endswith(".timer") else "[Service]"
        seen = box.run("journalctl", "--quiet", "--lines=0", "--show-cursor").split()[-1]
        self._journal = ("--output=cat", f"--after-cursor={seen}", f"--unit={name}")

    def systemctl(self, verb: str, *options: str) -> str:
        return self._box.run("systemctl", verb, *options, self.name)

    def change(self, *lines: str) -> None:
        """Add a drop-in of these lines, for one test: `forget` takes it back."""
        text = "\n".join([self._section, *lines, ""])
        self._box.write(f"/etc/systemd/system/{self.name}.d/test.conf", text)
        self._box.run("systemctl", "daemon-reload")

    def forget(self) -> None:
        """End it, whatever it does, and make it as it was before the test."""
        for verb, *options in (("kill", "--signal=KILL"), ("stop",), ("revert",), ("reset-failed",)):
            self._box.call("systemctl", verb, *options, self.name)

    def show(self, name: str) -> str:
        """Return the value of a property."""
        return self.state(name)[0]

    def state(self, *names: str) -> tuple[str, ...]:
        """Return the values of properties, all of one moment."""
        said = self.systemctl("show", *(f"--property={name}" for name in names))
        values = dict(line.split("=", 1) for line in said.splitlines())
        return tuple(values[name] for name in names)

    def wait_for(self, seconds: float = PATIENCE_SECONDS, **wanted: str) -> None:
        """Wait until its properties have these values."""
        try:
            eventually(lambda: self.state(*wanted) == tuple(wanted.values()), seconds)
        except AssertionError as error:
            error.add_note(self.systemctl("show") + self.journal())
            raise

    def journal(self) -> str:
        """What its processes have said, and systemd of it."""
        self._box.run("journalctl", "--sync")  # what a process said that has ended may not have been read yet
        return self._box.run("journalctl", "--quiet", *self._journal)

    def wait_for_line(self, is_wanted: Callable[[str], bool], seconds: float = PATIENCE_SECONDS) -> None:
        """Read its journal, as it is written, until there is such a line."""
        with self._box.following(seconds, "journalctl", "--follow", "--lines=all", *self._journal) as lines:
            assert any(map(is_wanted, lines)), f"not found within {seconds} s:\n{self.journal()}"

    def wait_for_journal(self, text: str, seconds: float = PATIENCE_SECONDS) -> None:
        self.wait_for_line(lambda line: text in line, seconds)


@contextmanager
def booted(binds: Mapping[str, Path]) -> Iterator[Box]:
    """Boot a box that sees folders of ours, read-only, by the paths given; raises Unavailable."""
    with tempfile.TemporaryDirectory(prefix="crbox-") as folder:
        home = Path(folder) / "box"
        pairs = [f"{ours}:{inside}" for inside, ours in binds.items()]
        done = subprocess.run([BOX, "start", home, *pairs], check=False, capture_output=True, text=True)
        if done.returncode == CANNOT_BE_HAD:
            raise Unavailable(done.stderr.strip().splitlines()[-1])
        assert done.returncode == 0, done.stderr
        try:
            yield Box(home)
        finally:
            subprocess.run([BOX, "stop", home], check=True)


@contextmanager
def installed() -> Iterator[Path]:
    """The program as operators have it: a virtual environment of its own that everybody may read and only root write.

    It may be bound to any place inside: its scripts find their interpreter by where they are.
    """
    if not PYTHON.exists():
        raise Unavailable(f"there is no {PYTHON}")
    with tempfile.TemporaryDirectory(prefix="crinstall-") as folder:
        Path(folder).chmod(0o755)
        _uv("venv", "--relocatable", "--allow-existing", "--python", PYTHON, folder)
        # Compiled, as by pip: the service cannot write what it has compiled.
        options = ("--no-dev", "--no-editable", "--compile-bytecode")
        _uv("sync", "--frozen", *options, UV_PROJECT_ENVIRONMENT=folder)
        yield Path(folder)


def _uv(*arguments: str | Path, **environment: str) -> None:
    uv = shutil.which("uv") or Path(sys.executable).with_name("uv")
    options = {"cwd": CHECKOUT, "env": {**os.environ, **environment}}
    done = subprocess.run([uv, *arguments], check=False, capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stderr


@contextmanager
def server_for_boxes() -> Iterator[tuple[EmbeddedServer, Path]]:
    """A server, and the folder of its sockets, to be bound into a box; whoever is not `postgres` gives a password.

    Outside of boxes only the server's account and root get there.
    """
    account = spawn_options()
    with tempfile.TemporaryDirectory(prefix="crpg-", dir=SHARED_TEMPORARY) as folder:
        sockets, data = Path(folder) / "sockets", Path(folder) / "data"
        sockets.mkdir()
        for path in (Path(folder), sockets):
            os.chown(path, account.get("user", -1), account.get("group", -1))
        settings = DISPOSABLE_SETTINGS | {"unix_socket_directories": str(sockets)}
        with EmbeddedServer(data, settings=settings) as server:
            (data / "pg_hba.conf").write_text("local all postgres trust\nlocal all all scram-sha-256\n")
            with psycopg.connect(make_conninfo(server.url(), host=str(sockets)), autocommit=True) as connection:
                connection.execute("SELECT pg_reload_conf()")
            yield server, sockets
