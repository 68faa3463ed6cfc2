"""Faults of the network between the service and the server; the engine has a way of its own."""

from collections.abc import Iterator

import pytest

from db.embedded import EmbeddedServer
from tests.chaos.engine import Engine
from tests.chaos.form import in_form
from tests.chaos.proxy import BOTH, CHUNK, Direction, Proxy
from tests.chaos.trial import Trial, by_port, last, now

HOLE_SECONDS = in_form(60, 12)
# After the proof, every 10 s, has had its 5 s.
NOTICED_SECONDS = 20
SWEEP_SECONDS = 5


@pytest.fixture
def proxy(server: EmbeddedServer) -> Iterator[Proxy]:
    with Proxy(server.port) as proxy:
        yield proxy


@pytest.mark.parametrize(
    ("directions", "name"),
    [(BOTH, "both directions"), (("to server",), "direction to the server"), (("to client",), "direction to us")],
)
def test_a_black_hole(url: str, proxy: Proxy, directions: tuple[Direction, ...], name: str) -> None:
    fault = f"network: black hole, {name}, {HOLE_SECONDS} s"
    with Trial(fault, url, service_url=by_port(url, proxy.port)) as trial, trial.fault():
        proxy.hold(directions)
        last(HOLE_SECONDS)
        proxy.release()


def test_a_black_hole_around_the_listener_alone(url: str, proxy: Proxy) -> None:
    """It is noticed, and meanwhile the leads are recovered by frequent sweeps."""
    fault = f"network: black hole, listener alone, {HOLE_SECONDS} s"
    # No lead is moved: a move wakes the sweep, which would find the others by the way.
    engine = Engine(url, rematch_share=0)
    with Trial(fault, url, engine=engine, listener_database_url=by_port(url, proxy.port)) as trial:
        with trial.fault():
            proxy.hold()
            lost = trial.daemon.wait_for("database.lost", NOTICED_SECONDS, role="listener")
            print("noticed:", lost["reason"])
            last(HOLE_SECONDS - SWEEP_SECONDS)
            trial.wait_until_recovered(now(), 2 * SWEEP_SECONDS)
            proxy.release()
        assert trial.longest_wait() < NOTICED_SECONDS + 2 * SWEEP_SECONDS


def test_connections_are_reset(url: str, proxy: Proxy) -> None:
    with Trial("network: all connections reset", url, service_url=by_port(url, proxy.port)) as trial:
        for _ in range(in_form(10, 3)):
            with trial.fault():
                proxy.reset()


def test_a_byte_at_a_time(url: str, proxy: Proxy) -> None:
    seconds = in_form(20, 4)
    trial = Trial(f"network: one byte at a time, {seconds} s", url, service_url=by_port(url, proxy.port))
    with trial, trial.fault():
        proxy.drip()
        last(seconds)
        proxy.drip(CHUNK)


def test_half_a_second_of_delay(url: str, proxy: Proxy) -> None:
    seconds = in_form(20, 5)
    trial = Trial(f"network: 500 ms of delay, {seconds} s", url, service_url=by_port(url, proxy.port))
    with trial, trial.fault():
        proxy.delay(0.5)
        last(seconds)
        proxy.delay(0)
