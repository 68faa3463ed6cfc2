"""Faults of the consumer's own process and host."""

import os
import signal
from pathlib import Path

import pytest

from tests.chaos.form import in_form
from tests.chaos.trial import Trial, last

FAKETIME = Path(f"/usr/lib/{os.uname().machine}-linux-gnu/faketime/libfaketimeMT.so.1")


def test_killed_in_the_midst_of_a_batch_and_started_again(url: str) -> None:
    with Trial("consumer: SIGKILL in mid-batch, started again", url) as trial:
        for _ in range(in_form(5, 2)):
            with trial.fault():
                trial.wait_for_batch_in_hand()
                trial.kill_daemon()
                trial.flow()
                trial.start_daemon()


def test_frozen_for_half_a_minute(url: str) -> None:
    seconds = in_form(30, 4)
    with Trial(f"consumer: SIGSTOP for {seconds} s", url) as trial, trial.fault():
        trial.daemon.process.send_signal(signal.SIGSTOP)
        last(seconds)
        trial.daemon.process.send_signal(signal.SIGCONT)


def test_asked_to_stop_under_load_and_started_again(url: str) -> None:
    with Trial("consumer: SIGTERM under load, started again", url) as trial:
        for _ in range(in_form(5, 2)):
            with trial.fault():
                trial.wait_for_batch_in_hand()
                assert trial.daemons.pop().stop() == 0
                trial.flow()
                trial.start_daemon()


@pytest.mark.skipif(not FAKETIME.exists(), reason="needs Debian's package faketime")
def test_the_clock_of_its_host_jumps_to_and_fro(url: str, tmp_path: Path) -> None:
    clock = tmp_path / "clock"
    clock.write_text("+0")
    faked = {
        "LD_PRELOAD": str(FAKETIME),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    with Trial("consumer: clock of its host jumps by two days", url, variables=faked) as trial:
        for jump in ("+2d", "+0", "-2d", "+0"):
            with trial.fault():
                clock.write_text(jump)
                trial.flow()
