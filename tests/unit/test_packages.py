"""A host's packages of the same names are noticed."""

import os
import subprocess
import sys
from pathlib import Path


def test_a_host_s_package_named_db_is_refused(tmp_path: Path) -> None:
    (tmp_path / "db").mkdir()
    (tmp_path / "db" / "__init__.py").touch()

    ended = subprocess.run(
        [sys.executable, "-c", "from consumer.cli import main; main()", "status"],
        env={**os.environ, "PYTHONPATH": str(tmp_path), "DATABASE_URL": "postgresql://nowhere/"},
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
    )

    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert str(tmp_path / "db" / "__init__.py") in ended.stderr
