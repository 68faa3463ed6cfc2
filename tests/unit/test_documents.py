"""The documents keep their promises: links lead somewhere, commands exist, and both runbooks say the same."""

import re
import shlex
from collections import Counter
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import typer.main

from consumer import cli
from consumer.handlers.outcome import Outcome
from consumer.settings import Settings, is_address, variable_of

PROJECT = Path(__file__).parents[2]
PAGES = sorted([PROJECT / "README.md", *PROJECT.glob("docs/*.md"), *PROJECT.glob("deploy/**/*.md")])
ENGLISH, SPANISH = PROJECT / "docs" / "runbook.md", PROJECT / "docs" / "runbook.es.md"
RULES = PROJECT / "deploy" / "prometheus" / "cabinet-recovery.rules.yml"

FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
SHELL_LANGUAGES = {"console", "sh", "bash", "cron", "ini"}
# At the beginning, but for a path, variables and the five fields of a crontab.
OURS = re.compile(r"\s*(?:[\d*/,-]+ ){0,5}(?:\w+=\S* )*(?:\S+/|\S+ -m )?consumer (\S.*)$")


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def prose(page: Path) -> str:
    """The page without its blocks of code."""
    return FENCE.sub("", text_of(page))


def headings(page: Path) -> list[tuple[int, str]]:
    return [(len(marks), title) for marks, title in re.findall(r"^(#+) (.+)$", prose(page), re.MULTILINE)]


def anchors(page: Path) -> set[str]:
    """The names that GitHub gives to the headings."""
    seen: Counter[str] = Counter()
    found = set()
    for _, title in headings(page):
        name = re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).lower()).replace(" ", "-")
        found.add(f"{name}-{seen[name]}" if seen[name] else name)
        seen[name] += 1
    return found


def dead_links(page: Path, targets: list[str], base: Path) -> list[str]:
    dead = []
    for target in targets:
        path, _, anchor = target.partition("#")
        file = (base / path).resolve() if path else page
        if not file.exists() or (anchor and (file.suffix != ".md" or anchor not in anchors(file))):
            dead.append(target)
    return dead


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_of_a_page_leads_to_a_file_and_a_heading_that_there_is(page: Path) -> None:
    targets = [target for target in LINK.findall(prose(page)) if not re.match(r"\w+:", target)]

    assert dead_links(page, targets, page.parent) == []


def test_code_and_deployment_name_pages_and_headings_that_there_are() -> None:
    places = ("deploy/**/*", "consumer/**/*.py", "db/**/*.*", "benchmarks/*.py", "Makefile")
    files = [file for place in places for file in PROJECT.glob(place) if file.suffix != ".pyc" and file.is_file()]
    named = {file: re.findall(r"\bdocs/[\w.-]+\.md(?:#[\w-]+)?", text_of(file)) for file in files}

    assert any(named.values())
    assert {file.name: dead for file, targets in named.items() if (dead := dead_links(file, targets, PROJECT))} == {}


@pytest.mark.parametrize("runbook", [ENGLISH, SPANISH], ids=["english", "spanish"])
def test_every_alert_has_a_section_in_the_runbook_and_links_to_it(runbook: Path) -> None:
    rules = text_of(RULES)
    alerts = re.findall(r"^ *- alert: (\w+)$", rules, re.MULTILINE)

    assert len(alerts) >= 7
    assert re.findall(r"^ *runbook_url: (.+)$", rules, re.MULTILINE) == [
        f"docs/runbook.md#{alert.lower()}" for alert in alerts
    ]
    assert [title for level, title in headings(runbook) if level == 3 and title in alerts] == alerts


def command_lines(page: Path) -> Iterator[str]:
    """What the page gives to be typed: the lines of its shells, and what stands between backticks."""
    for _, language, block in FENCE.findall(text_of(page)):
        if language in SHELL_LANGUAGES:
            lines = re.sub(r"\\\n", " ", block).splitlines()
            typed = [line[2:] for line in lines if line.startswith("$ ")]
            yield from typed or lines
    for code in re.findall(r"`([^`]+)`", prose(page)):
        yield " ".join(code.split()).replace(r"\|", "|")


def our_commands(line: str) -> Iterator[list[str]]:
    """The words after each `consumer` of a line, up to what the shell makes of the rest; `a|b` stands for two."""
    for alternative in alternatives(re.sub(r" #.*$", "", line)):
        for part in re.split(r" [|&;<>]+ ?| \d?>+ ?|;", alternative):
            if found := OURS.match(part):
                yield [word for word in shlex.split(found[1]) if word != "…"]


def alternatives(line: str) -> list[str]:
    if chosen := re.search(r"(?<= )([\w-]+(?:\|[\w-]+)+)(?= |$)", line):
        before, after = line[: chosen.start()], line[chosen.end() :]
        return [one for word in chosen[1].split("|") for one in alternatives(before + word + after)]
    return [line]


def refusal(words: list[str]) -> str | None:
    """Why the command line would not be taken; a name in place of a value, or none, will do."""
    command: Any = typer.main.get_command(cli.app)
    taken: list[str] = []
    while words and hasattr(command, "commands"):
        word, *words = words
        if word.startswith("-"):
            known = {option for one in command.params for option in one.opts} | {"--help", "-h"}
            return None if word in known else f"no such option: {word}"
        if word not in command.commands:
            return f"no such command: {word}"
        command = command.commands[word]
        taken.append(word)
    try:
        if not {"--help", "-h"} & set(words):
            command.make_context(" ".join(taken), words)
    except typer.TyperException as error:
        return None if type(error).__name__ in {"MissingParameter", "NoArgsIsHelpError"} else error.format_message()
    return None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_line_of_a_page_is_one_that_the_program_takes(page: Path) -> None:
    refused = {
        " ".join(words): why
        for line in command_lines(page)
        for words in our_commands(line)
        if words and (why := refusal(words))
    }

    assert refused == {}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_test_and_setting_that_a_page_names_is_there(page: Path) -> None:
    code = " ".join(re.findall(r"`([^`]+)`", prose(page)))
    tests = "".join(text_of(file) + file.name for file in PROJECT.glob("tests/**/test_*.py"))
    settings = {variable_of(setting) for setting in fields(Settings)}
    settings |= {f"{variable_of(setting)}_FILE" for setting in fields(Settings) if is_address(setting)}

    assert {name for name in re.findall(r"\btest_\w+", code) if name not in tests} == set()
    assert set(re.findall(r"\bCABINET_RECOVERY_[A-Z_]*[A-Z]\b", text_of(page))) <= settings


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("consumer sweeep", "no such command: sweeep"),
        ("/opt/x/bin/consumer sweep --limit 10 >> /var/log/x.log 2>&1", None),
        ("0 * * * * A=1 consumer sweep --limmit 10", "No such option"),
        ("consumer parked list|shw", "no such command: shw"),
        ("consumer triggers enable && consumer sweep --jsn", "No such option"),
        ("consumer --versoin", "no such option: --versoin"),
        ("python -m consumer swep", "no such command: swep"),
    ],
)
def test_a_command_line_that_has_rotted_is_found(line: str, why: str | None) -> None:
    found = [refusal(words) for words in our_commands(line)]

    assert found
    assert next(filter(None, found), "").startswith(why or "")
    assert any(found) == (why is not None)


@pytest.mark.parametrize("line", ["from consumer import run_job", "a consumer is connected", "make consumer x"])
def test_what_only_speaks_of_a_consumer_is_no_command_line(line: str) -> None:
    assert list(our_commands(line)) == []


class TestTheSpanishRunbook:
    """It is the English one, in the language of those who use it."""

    def test_has_the_same_headings_in_the_same_order(self) -> None:
        names = set(re.findall(r"CabinetRecovery\w+", text_of(ENGLISH)))

        def shape(page: Path) -> list[tuple[int, str | None]]:
            return [(level, title if title in names else None) for level, title in headings(page)]

        assert shape(SPANISH) == shape(ENGLISH)

    def test_has_the_same_blocks_of_code_but_for_their_comments(self) -> None:
        def blocks(page: Path) -> list[tuple[str, str]]:
            return [(language, re.sub(r" *(#|-- ).*", "", code)) for _, language, code in FENCE.findall(text_of(page))]

        assert blocks(SPANISH) == blocks(ENGLISH)

    def test_names_the_same_commands_and_objects_section_by_section(self) -> None:
        def names(page: Path) -> list[Counter[str]]:
            sections = re.split(r"^#+ .+$", prose(page), flags=re.MULTILINE)
            return [Counter(" ".join(code.split()) for code in re.findall(r"`([^`]+)`", part)) for part in sections]

        for spanish, english in zip(names(SPANISH), names(ENGLISH), strict=True):
            assert set(spanish) == set(english)

    def test_links_to_the_same_places_section_by_section(self) -> None:
        def links(page: Path) -> list[set[str]]:
            return [set(LINK.findall(part)) for part in re.split(r"^#+ .+$", prose(page), flags=re.MULTILINE)[2:]]

        assert links(SPANISH) == links(ENGLISH)


def test_every_event_of_the_log_is_in_the_reference_and_no_other() -> None:
    code = "".join(file.read_text(encoding="utf-8") for file in sorted((PROJECT / "consumer").rglob("*.py")))
    dotted = re.findall(r'"(([a-z_]+)\.[a-z_]+)"', code)
    told = {event for event, first in dotted if first not in {"canon", "ops", "public", "uvicorn"}}
    told |= {f"lead.{outcome}" for outcome in Outcome} | {"lead.parked"}
    section = text_of(PROJECT / "docs" / "reference.md").partition("## Log events")[2]

    assert set(re.findall(r"`([a-z_]+\.[a-z_]+)`", section)) == told
