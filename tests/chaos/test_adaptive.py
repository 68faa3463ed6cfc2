"""Faults that strike while a keeper is awake, and the engine therefore does not notify."""

import time

from tests.chaos.form import in_form
from tests.chaos.trial import Trial
from tests.processes import eventually

# Exclusive, it is the keeper's; the engine, silent, shares it.
SLEEPS = """
    SELECT pid FROM pg_locks
    WHERE locktype = 'advisory' AND objid = 2919646820 AND mode = 'ExclusiveLock' AND granted
"""
BURST = "SELECT pg_notify('cabinet_recovery', n || clock_timestamp()::text) FROM generate_series(1, 2000) AS n"
OFTEN = {"proof_interval_seconds": "2"}  # the mode is learned with each proof


def begin(trial: Trial) -> None:
    """From now on the trial's daemon is the keeper, and another one stands by."""
    trial.ask("UPDATE ops.cabinet_recovery_settings SET notify_mode = 'adaptive'")
    trial.daemon.wait_for("keeper.asleep")
    trial.start_daemon().wait_until_ready()


def wake(trial: Trial) -> None:
    """Many notifications, whoever sends them, wake the keeper; from now on some matches are silent."""
    eventually(lambda: trial.ask(SLEEPS))
    known = times_woken(trial)

    def is_woken() -> bool:
        # Again and again: what is sent while the keeper's listener is away is lost.
        trial.ask(BURST)
        time.sleep(1)
        return times_woken(trial) > known

    eventually(is_woken)
    trial.flow(5)


def times_woken(trial: Trial) -> int:
    return sum(len(daemon.events("keeper.woken")) for daemon in trial.daemons)


def test_a_keeper_that_is_killed_awake_and_started_again(url: str) -> None:
    with Trial("adaptive: keeper killed awake, another there", url, **OFTEN) as trial:
        begin(trial)
        for _ in range(in_form(5, 2)):
            keeper, heir = trial.daemons
            wake(trial)
            with trial.fault():
                keeper.kill()
                trial.daemons.remove(keeper)
                heir.wait_for("keeper.appointed")
                trial.start_daemon().wait_until_ready()


def test_the_listener_s_and_the_keeper_s_backends_are_terminated_awake(url: str) -> None:
    with Trial("adaptive: listener's and keeper's backends terminated", url, **OFTEN) as trial:
        begin(trial)
        for number in range(in_form(10, 3)):
            wake(trial)
            with trial.fault():
                trial.end_sessions(f"application_name = 'cabinet-recovery {('listener', 'keeper')[number % 2]}'")
