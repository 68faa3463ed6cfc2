"""How often the page counts all leads: as often as matches come while that is cheap, and else a tenth of the time."""

from consumer.web.watcher import Pace


def test_cheap_figures_are_read_half_of_the_time_at_most() -> None:
    pace = Pace()

    assert [pace.rest_seconds(0.1) for _ in range(4)] == [0.1] * 4


def test_dear_figures_are_read_a_tenth_of_the_time() -> None:
    pace = Pace()
    pace.rest_seconds(9.0)  # connects, and warms up

    assert pace.rest_seconds(4.0) == 36
    assert pace.rest_seconds(4.0) == 36


def test_a_busy_machine_makes_nothing_dear() -> None:
    pace = Pace()
    for took in (0.3, 0.2, 3.0, 5.0):
        assert pace.rest_seconds(took) < 1


def test_what_has_become_dear_is_read_more_seldom() -> None:
    pace = Pace()
    for took in (0.2, 0.2, 2.0, 2.0):
        pace.rest_seconds(took)

    assert pace.rest_seconds(2.0) == 18
