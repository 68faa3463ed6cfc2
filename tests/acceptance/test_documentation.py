"""Every command and every option stands in docs/commands.md and in --help, with an example that can be typed."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from consumer import cli
from tests.processes import ELSEWHERE, environment, run_command

DOCUMENT = Path(__file__).parents[2] / "docs" / "commands.md"


def commands(group: Any, *names: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, *names, name)
        else:
            yield (*names, name), command


ALL = dict(commands(typer.main.get_command(cli.app)))


def sections() -> dict[tuple[str, ...], str]:
    parts = re.split(r"^## `consumer ([a-z ]+)`$", DOCUMENT.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {tuple(name.split()): text for name, text in zip(parts[1::2], parts[2::2], strict=True)}


def test_every_command_is_documented_and_no_other() -> None:
    assert set(sections()) == set(ALL)


@pytest.mark.parametrize("name", ALL, ids=" ".join)
def test_of_every_command_all_options_and_an_example_are_documented(name: tuple[str, ...]) -> None:
    text, command = sections()[name], ALL[name]

    options = {option for one in command.params if one.param_type_name == "option" for option in one.opts}
    documented = set(re.findall(r"`(--[a-z-]+)`", "\n".join(re.findall(r"^- .*$", text, re.MULTILINE))))
    assert documented - {"--dry-run"} == {one for one in options if one.startswith("--")} - {"--help", "--dry-run"}
    assert ("--dry-run" in options) <= ("--dry-run" in text)
    for one in command.params:
        if one.param_type_name == "argument":
            assert f"`{one.metavar}`" in text
    assert f"Example: `{command.epilog.removeprefix('Example: ')}`" in text


@pytest.mark.parametrize("name", ALL, ids=" ".join)
def test_the_example_in_its_help_is_one_that_it_takes(name: tuple[str, ...]) -> None:
    command = ALL[name]
    program, *words = shlex.split(command.epilog.removeprefix("Example: "))

    assert program == "consumer"
    assert tuple(words[: len(name)]) == name
    command.make_context(" ".join(name), words[len(name) :])  # raises for what it does not take
    assert command.rich_help_panel or len(name) > 1, "no panel would show it"


def test_help_shows_the_commands_by_what_they_are_for() -> None:
    shown = run_command("--help").stdout

    panels = re.findall(r"^([A-Z][a-z ]+):$", shown, re.MULTILINE)
    assert panels == ["Options", "Recover leads", "See how it stands", "Decide", "Set up"]
    for name in ALL:
        assert re.search(rf"^  {name[0]} ", shown, re.MULTILINE)


def test_the_version_is_told() -> None:
    assert re.fullmatch(r"consumer \d+\.\d+\.\d+\n", run_command("--version").stdout)


def test_the_shell_completes_commands_and_options() -> None:
    def completed(*words: str) -> set[str]:
        variables = {"_CONSUMER_COMPLETE": "complete_bash", "COMP_WORDS": " ".join(words), "COMP_CWORD": "1"}
        variables["COMP_CWORD"] = str(len(words) - 1)
        done = subprocess.run(
            [Path(sys.executable).with_name("consumer")],
            check=True,
            capture_output=True,
            text=True,
            cwd=ELSEWHERE,
            env=environment(None) | variables,
        )
        return set(done.stdout.split())

    assert completed("consumer", "s") == {"status", "sweep"}
    assert {"--limit", "--dry-run", "--json"} <= completed("consumer", "sweep", "--")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_a_shell_can_be_had_and_installed(shell: str, tmp_path: Path) -> None:
    for option in ("--show-completion", "--install-completion"):
        done = subprocess.run(
            [Path(sys.executable).with_name("consumer"), option, shell],
            check=False,
            capture_output=True,
            text=True,
            cwd=ELSEWHERE,
            env=environment(None) | {"HOME": str(tmp_path), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"},
        )
        assert (done.returncode, done.stderr) == (0, "")
    assert any("_CONSUMER_COMPLETE" in one.read_text() for one in tmp_path.rglob("*") if one.is_file())
