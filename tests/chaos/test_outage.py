"""A server that is away for long: the daemon waits, says little and does not grow."""

from db.embedded import EmbeddedServer
from tests.chaos.form import in_form
from tests.chaos.trial import Trial, last, resident_bytes

# Ten times the pace: a minute of this is ten of an operator's.
FAST = {"reconnect_max_seconds": "1", "outage_log_interval_seconds": "3", "degraded_sweep_interval_seconds": "1"}
MOST_LINES = 25
MOST_GROWTH_BYTES = 5 * 1024**2


def test_a_server_that_is_away_for_ten_minutes_at_ten_times_the_pace(server: EmbeddedServer, url: str) -> None:
    seconds = in_form(60, 10)
    with Trial(f"server: away for {seconds} s at ten times the pace", url, **FAST) as trial:
        with trial.fault():
            lines, resident = len(trial.daemon.log.splitlines()), resident_bytes(trial.daemon.process.pid)
            server.stop()
            trial.daemon.wait_for("database.lost")
            last(seconds)
            said = trial.daemon.log.splitlines()[lines:]
            grown = resident_bytes(trial.daemon.process.pid) - resident
            server.start()
        about_leads = [line for line in said if '"lead.' in line]
        print(f"{len(said)} lines, grown by {grown / 1024**2:.1f} MB")
        assert len(said) - len(about_leads) <= MOST_LINES, said
        assert grown < MOST_GROWTH_BYTES
