"""What is built and installed is whole: the wheel, in an environment that knows no checkout."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.database import Database
from tests.processes import environment
from tests.servers import TemplateDatabase

PROJECT = Path(__file__).parents[2]
UV = shutil.which("uv") or str(PROJECT / ".venv" / "bin" / "uv")

# The claims stand for the host's where there were none.
OURS = """
    SELECT relname FROM pg_class WHERE relname LIKE '%%cabinet_recovery%%' AND relname NOT LIKE '%%recovery_claim%%'
    UNION ALL SELECT proname FROM pg_proc WHERE proname LIKE 'cabinet_recovery%%'
    UNION ALL SELECT tgname FROM pg_trigger WHERE tgname LIKE 'cabinet_recovery%%'
"""

pytestmark = [pytest.mark.slow]


def attempt(*command: str | Path, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    passed_on = {name: value for name, value in os.environ.items() if name.startswith("UV_")}
    return subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        timeout=100,
        cwd=cwd,
        env=environment(None) | passed_on | variables,
    )


def run(*command: str | Path, cwd: Path, **variables: str) -> str:
    done = attempt(*command, cwd=cwd, **variables)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def uv(*arguments: str | Path, cwd: Path, **variables: str) -> None:
    """Out of the cache, which `make setup` has filled; from the index only where that falls short."""
    if attempt(UV, "--offline", *arguments, cwd=cwd, **variables).returncode:
        run(UV, *arguments, cwd=cwd, **variables)


@pytest.fixture(scope="module")
def consumer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command, in a fresh environment that has the wheel and what uv.lock pins."""
    folder = tmp_path_factory.mktemp("wheel")
    fresh = folder / "venv"
    uv("build", "--wheel", "--out-dir", folder, PROJECT, cwd=folder)
    locked = ("sync", "--frozen", "--no-dev", "--extra", "demo", "--no-install-project", "--compile-bytecode")
    uv(*locked, "--project", PROJECT, cwd=folder, UV_PROJECT_ENVIRONMENT=str(fresh))
    [wheel] = folder.glob("*.whl")
    uv("pip", "install", "--no-deps", "--compile-bytecode", "--python", fresh, wheel, cwd=folder)
    uv("pip", "check", "--python", fresh, cwd=folder)
    return fresh / "bin" / "consumer"


def test_it_says_its_version(consumer: Path, tmp_path: Path) -> None:
    assert run(consumer, "--version", cwd=tmp_path) == "consumer 0.1.0\n"


def test_it_migrates_an_empty_database_recovers_a_lead_in_it_and_goes_again(
    consumer: Path, server_url: str, tmp_path: Path
) -> None:
    with TemplateDatabase(server_url, lambda _: None) as empty:
        url = empty.fresh()
        run(consumer, "migrate", cwd=tmp_path, DATABASE_URL=url)
        database = Database(url)
        lead = database.lead(matched_to=database.person())

        run(consumer, "sweep", cwd=tmp_path, DATABASE_URL=url)

        assert database.audit_of(lead) is not None
        run(consumer, "uninstall", "--yes", cwd=tmp_path, DATABASE_URL=url)
        assert database.audit_of(lead) is not None
        assert database.link_of(lead) is not None
        assert database.run(OURS) == []
        database.close()
        empty.drop(url)


def test_its_demo_runs_to_the_end(consumer: Path, tmp_path: Path) -> None:
    output = run(consumer, "demo", cwd=tmp_path)

    assert "Lag: median" in output


def test_its_page_of_the_impact_has_its_charts(consumer: Path, database: Database, tmp_path: Path) -> None:
    page = tmp_path / "impact.html"

    run(consumer, "impact", "--html", page, cwd=tmp_path, DATABASE_URL=database.owner_url)

    assert "<svg" in page.read_text(encoding="utf-8")
