"""The demo as a user runs it: the real command, with a server and a consumer of its own."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import pytest

from consumer.demo.fleet import build_fleet

# None of these may matter: the demo brings its own database.
ELSEWHERE = {"DATABASE_URL": "postgresql://nobody@nowhere.invalid/none", "PGSERVICE": "none", "PGOPTIONS": "-c x=1"}
LIVE_LINE = re.compile(r"\d+ s  matched [1-9]")


@contextmanager
def running_demo(*options: str) -> Iterator[subprocess.Popen[str]]:
    """Start `consumer demo` in a session of its own, by which all that it starts can be told."""
    demo = subprocess.Popen(
        [sys.executable, "-m", "consumer", "demo", *options],
        env={**os.environ, **ELSEWHERE},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with demo:
        try:
            yield demo
        finally:
            demo.terminate()


def processes_of(demo: subprocess.Popen[str]) -> dict[int, str]:
    """List what runs in the demo's session, by pid: its command line."""
    found = {}
    for pid in (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()):
        with suppress(ProcessLookupError, FileNotFoundError):
            if os.getsid(pid) == demo.pid:
                found[pid] = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    return found


def data_folder_of(demo: subprocess.Popen[str]) -> Path:
    """Find it on the command line of the demo's server."""
    # As a set: a process that the server forked a moment ago has no title of its own yet.
    [folder] = set(re.findall(r"postgres -D (\S+)", "\n".join(processes_of(demo).values())))
    return Path(folder)


def read_until(demo: subprocess.Popen[str], pattern: re.Pattern[str]) -> str:
    """Read the demo's output up to the first line that has the pattern."""
    assert demo.stdout is not None
    lines = []
    for line in demo.stdout:
        lines.append(line)
        if pattern.search(line):
            return "".join(lines)
    pytest.fail(f"the demo ended with {demo.wait()}; it said:\n{''.join(lines)}")


def test_it_recovers_leads_live_and_ends_with_the_impact_and_nothing_left_behind() -> None:
    with running_demo() as demo:
        output = read_until(demo, LIVE_LINE)
        running, data_folder = processes_of(demo), data_folder_of(demo)
        rest, errors = demo.communicate(timeout=60)
        output += rest

    assert (demo.returncode, errors) == (0, "")
    assert sorted(impact_of(output)) == [
        "identified_but_missing_origin",
        "identified_origin_claim",
        "identified_origin_no_claim",
        "recovered_late",
        "recovered_within_14d_and_claim",
        "recovered_within_14d_but_no_claim",
        "still_unidentified",
    ]
    assert {sum(column) for column in zip(*impact_of(output).values(), strict=True)} == {850}
    before, after = impact_of(output)["recovered_within_14d_and_claim"]
    assert before == 0 < after
    assert number_in(r"Matched before the service ran: (\d+)", output) > 200
    assert number_in(r"Matched live: \d+\. Recovered: (\d+)", output) > 50
    assert "unanswered" not in output
    assert number_in(r"Lag: median ([\d.]+) ms", output) < 1000
    assert "consumer migrate" in output
    assert any("consumer run" in command for command in running.values())
    assert processes_of(demo) == {}
    assert not data_folder.parent.exists()


def impact_of(output: str) -> dict[str, tuple[int, int]]:
    rows = re.findall(r"^(\w+) +(\d+) +(\d+)$", output, re.MULTILINE)
    return {bucket: (int(before), int(after)) for bucket, before, after in rows}


def number_in(pattern: str, output: str) -> float:
    found = re.search(pattern, output)
    assert found, output
    return float(found[1])


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_and_all_that_it_started(number: signal.Signals, status: int) -> None:
    with running_demo() as demo:
        read_until(demo, LIVE_LINE)
        data_folder = data_folder_of(demo)

        demo.send_signal(number)
        demo.send_signal(number)  # of the impatient
        demo.communicate(timeout=30)

        assert demo.returncode == status
        assert processes_of(demo) == {}
        assert not data_folder.parent.exists()


@pytest.mark.slow
def test_it_fails_when_the_consumer_dies_and_leaves_nothing_behind() -> None:
    with running_demo() as demo:
        read_until(demo, LIVE_LINE)
        data_folder = data_folder_of(demo)
        [consumer] = [pid for pid, command in processes_of(demo).items() if "consumer run" in command]

        os.kill(consumer, signal.SIGKILL)
        _, errors = demo.communicate(timeout=30)

        assert demo.returncode == 1
        assert "the consumer ended by itself, with status -9" in errors.splitlines()[-1]
        assert processes_of(demo) == {}
        assert not data_folder.parent.exists()


@pytest.mark.slow
def test_kept_it_recovers_what_others_match_through_its_address() -> None:
    with running_demo("--keep") as demo:
        output = read_until(demo, re.compile("WHERE source_type"))
        address, match = re.search(r"DATABASE_URL='(.+)'", output), re.search(r"UPDATE [^;]+", output)
        assert address
        assert match

        with psycopg.connect(address[1]) as engine:
            engine.execute(match[0].encode())
        lead_id = re.findall(r"source_id = '(.+)'", match[0])[0]
        shown = read_until(demo, re.compile(rf"  {lead_id}  "))
        assert re.search(rf"  {lead_id}  matching job  recovered  [\d.]+ ms", shown)

        demo.send_signal(signal.SIGINT)
        demo.communicate(timeout=30)
        assert demo.returncode == 130
        assert processes_of(demo) == {}


def test_however_far_the_engine_came_the_lead_that_it_offers_is_of_a_person_without_an_origin() -> None:
    fleet = build_fleet()
    with_origin = {origin.person for origin in fleet.origins} | {lead.person for lead in fleet.found}
    matched: set[str] = set()

    for lead in fleet.unfound[:300]:  # of a play that lasts as long as it can
        offered = fleet.newcomer(matched)
        assert offered.person not in with_origin
        assert offered.lead_id not in matched
        matched.add(lead.lead_id)
        with_origin.add(lead.person)


def test_without_the_embedded_server_it_says_in_one_line_what_to_install() -> None:
    script = """if True:
        import sys
        from db import embedded
        embedded.find_spec = lambda _: None
        sys.argv = ["consumer", "demo"]
        from consumer.cli import main
        main()
    """
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)

    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert "pip install 'cabinet-recovery[demo]'" in line
