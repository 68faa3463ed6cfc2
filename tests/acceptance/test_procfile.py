"""The Procfile, as honcho runs it."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.box import CHECKOUT
from tests.database import Database
from tests.processes import PATIENCE_SECONDS, environment

AT_REST_SECONDS = 1.0  # after its start, a daemon without work has nothing to say


@pytest.mark.slow
def test_honcho_runs_both_processes_and_ends_them_on_sigterm(database: Database) -> None:
    """Each in its turn: the release process ends when its work is done, and honcho would then end the others."""
    honcho = [str(Path(sys.executable).parent / "honcho"), "start", "--no-prefix"]
    variables = environment(database.url, log_format="json")

    released = subprocess.run(
        [*honcho, "release"],
        cwd=CHECKOUT,
        env=variables | {"DATABASE_URL": database.owner_url},
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (released.returncode, "the schema is up to date" in released.stdout) == (0, True)

    with subprocess.Popen(
        [*honcho, "consumer"], cwd=CHECKOUT, env=variables, stdout=subprocess.PIPE, text=True
    ) as running:
        try:
            assert running.stdout
            assert any('"service.ready"' in line for line in running.stdout)
            # honcho says that it was signalled, and fails at that while it prints a line of the daemon's.
            time.sleep(AT_REST_SECONDS)
            running.send_signal(signal.SIGTERM)
            rest, _ = running.communicate(timeout=PATIENCE_SECONDS)  # to the last process that holds the stream
        finally:
            running.kill()

    assert '"service.stopped"' in rest
