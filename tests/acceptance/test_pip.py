"""Whoever has the wheel alone: pip takes what it needs from the index, and the demo runs."""

import os
import sys
from pathlib import Path

import pytest

from tests.acceptance.test_wheel import PROJECT, run, uv

pytestmark = [pytest.mark.scale, pytest.mark.timeout(400)]


def test_the_wheel_and_its_demo_are_installed_by_pip_and_run(tmp_path: Path) -> None:
    uv("build", "--wheel", "--out-dir", tmp_path, PROJECT, cwd=tmp_path)
    [wheel] = tmp_path.glob("*.whl")
    fresh = tmp_path / "venv"
    run(sys.executable, "-m", "venv", fresh, cwd=tmp_path)
    configured = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}

    run(fresh / "bin" / "pip", "install", "--quiet", f"{wheel}[demo]", cwd=tmp_path, **configured)
    run(fresh / "bin" / "pip", "check", cwd=tmp_path)

    assert "Lag: median" in run(fresh / "bin" / "consumer", "demo", cwd=tmp_path)
