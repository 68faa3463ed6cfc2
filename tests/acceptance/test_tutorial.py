"""docs/tutorial.md: every command that it shows is typed, in order, and answers as it says."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from db.embedded import runnable_binaries
from tests.processes import environment
from tests.servers import TemplateDatabase

TUTORIAL = Path(__file__).parents[2] / "docs" / "tutorial.md"
ANYTHING = "…"


@dataclass(frozen=True)
class Step:
    """A command as it is typed, and the lines that it is to answer with."""

    command: str
    answer: list[str]


def steps(page: str) -> list[Step]:
    found: list[Step] = []
    for block in re.findall(r"^```console\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append(Step(line[2:], []))
            elif line.startswith(">") and not found[-1].answer:
                found[-1] = Step(f"{found[-1].command}\n{line[2:]}", [])
            else:
                found[-1].answer.append(line)
    return found


def pattern(answer: list[str]) -> str:
    """The tutorial's rule as an expression: `…` within a line, or for lines, and any number of blanks."""
    lines = [r"(?:.*\n)*?" if line.strip() == ANYTHING else _line_pattern(line) + r"\n" for line in answer]
    return "".join(lines)


def _line_pattern(line: str) -> str:
    return ".*?".join(r"\s+".join(map(re.escape, part.split(" "))) for part in " ".join(line.split()).split(ANYTHING))


def tidied(output: str) -> str:
    return "".join(f"{' '.join(line.split())}\n" for line in output.splitlines())


class Shell:
    """A shell in which one command after the other is typed, as a reader does."""

    def __init__(self, url: str, folder: Path) -> None:
        programs = f"{Path(sys.executable).parent}:{runnable_binaries()}"
        variables = environment(url)
        variables["PATH"] = f"{programs}:{variables['PATH']}"
        self._process = subprocess.Popen(
            ["bash", "--norc"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=folder,
            env=variables,
            start_new_session=True,
        )

    def type(self, command: str) -> tuple[str, int]:
        """Return what the command shows, on either stream, and its exit status."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(f"{command}\nprintf '\\n<%d>\\n' $?\n")
        self._process.stdin.flush()
        shown: list[str] = []
        for line in self._process.stdout:
            if end := re.fullmatch(r"<(\d+)>\n", line):
                return "".join(shown).removesuffix("\n"), int(end[1])
            if not re.match(r"\S+: line \d+: +\d+ Killed ", line):
                shown.append(line)
        raise AssertionError(f"the shell ended: {''.join(shown)}")

    def close(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)  # what it left in the background as well
        self._process.communicate()


@pytest.fixture
def empty_database_url(server_url: str) -> Iterator[str]:
    with TemplateDatabase(server_url, prepare=lambda _: None) as template:
        url = template.fresh()
        yield url
        template.drop(url)


@pytest.fixture
def shell(empty_database_url: str, tmp_path: Path) -> Iterator[Shell]:
    shell = Shell(empty_database_url, tmp_path)
    yield shell
    shell.close()


def test_every_command_of_the_tutorial_answers_as_it_says(shell: Shell) -> None:
    all_steps = steps(TUTORIAL.read_text(encoding="utf-8"))
    assert len(all_steps) > 20

    for step in all_steps:
        shown, status = shell.type(step.command)

        assert status == 0, f"$ {step.command}\n{shown}"
        assert re.fullmatch(pattern(step.answer), tidied(shown)), f"$ {step.command}\n{shown}"
