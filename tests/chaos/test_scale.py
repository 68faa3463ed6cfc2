"""Much of everything: consumers, matches in one statement, notifications of strangers."""

from tests.chaos.engine import Engine
from tests.chaos.form import in_form
from tests.chaos.trial import Trial

BULK = in_form(200_000, 20_000)
JUNK = 50_000
BULK_TIMEOUT_SECONDS = 240.0


def test_eight_consumers_of_which_half_are_killed_in_mid_batch(url: str) -> None:
    with Trial("scale: 8 consumers, 4 killed in mid-batch and started again", url) as trial:
        for _ in range(7):
            trial.start_daemon().wait_until_ready()
        for _ in range(in_form(3, 1)):
            with trial.fault():
                trial.wait_for_batch_in_hand()
                for _ in range(4):
                    trial.kill_daemon()
                for _ in range(4):
                    trial.start_daemon()


def test_a_bulk_match_in_one_statement(url: str) -> None:
    engine = Engine(url, leads=BULK + 30_000)
    with Trial(f"scale: {BULK} leads matched in one statement", url, engine=engine) as trial:
        trial.patience_seconds = BULK_TIMEOUT_SECONDS
        with trial.fault():
            trial.engine.match_new(BULK)


def test_junk_notifications(url: str) -> None:
    with Trial(f"scale: {JUNK} junk notifications", url) as trial:
        for _ in range(in_form(3, 1)):
            with trial.fault():
                trial.ask(f"""
                    SELECT pg_notify('cabinet_recovery', repeat('junk ', mod(number, 100)) || number)
                    FROM generate_series(1, {JUNK}) AS number
                """)
