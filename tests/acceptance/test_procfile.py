"""The Procfile, as honcho runs it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.box import CHECKOUT
from tests.database import Database
from tests.processes import PATIENCE_SECONDS, environment


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
        [*honcho, "consumer"], cwd=CHECKOUT, env=variables, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as running:
        try:
            assert running.stdout
            assert any('"service.ready"' in line for line in running.stdout)
            running.send_signal(signal.SIGTERM)
            rest = running.stdout.read()
            running.wait(PATIENCE_SECONDS)
        finally:
            running.kill()

    assert '"service.stopped"' in rest
    with pytest.raises(ProcessLookupError):
        os.killpg(running.pid, 0)
