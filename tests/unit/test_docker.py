"""What the image and its composition say agrees with the program; the probe tells the living from the dead."""

import re
import subprocess
import sys
from dataclasses import fields

import pytest
import yaml

from consumer.settings import Settings, variable_of
from tests.box import CHECKOUT
from tests.database import Database
from tests.processes import Daemon, environment, run_command
from tests.scraping import Scraper
from tests.site import Site

FOLDER = CHECKOUT / "deploy/docker"
DEFAULTS = {variable_of(setting): setting.default for setting in fields(Settings)}


def probe(address: str | None, *asked: str) -> int:
    settings = {} if address is None else {"metrics_address": address}
    found = environment(None, **settings)
    command = [sys.executable, FOLDER / "healthcheck.py", *asked]
    return subprocess.run(command, check=False, env=found, timeout=30).returncode


def test_the_engine_waits_longer_than_the_daemon_does() -> None:
    (seconds,) = re.findall(r"stop_grace_period: (\d+)s", (FOLDER / "compose.yaml").read_text())

    assert int(seconds) > DEFAULTS["CABINET_RECOVERY_SHUTDOWN_GRACE_SECONDS"]


def test_a_signal_ends_whatever_it_is_still_starting() -> None:
    services = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"].values()

    assert {one["init"] for one in services if one["image"] == "cabinet-recovery"} == {True}


def test_the_page_reads_as_the_reader_and_is_reached_from_its_host_alone() -> None:
    services = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]
    page = services["web"]
    door = {option.partition("=")[0] for option in page["command"][1:]}

    assert page["secrets"] == ["reader-url"]
    assert page["environment"] == {"DATABASE_URL_FILE": "/run/secrets/reader-url"}
    assert [port.split(":")[0] for port in page["ports"]] == ["127.0.0.1"]
    assert door <= set(re.findall(r"--[a-z-]+", run_command("web", "--help").stdout))
    assert page["read_only"] and page["cap_drop"] == ["ALL"]
    assert [name for name, one in services.items() if "ports" in one] == ["web"]


def test_the_probe_asks_the_page_where_it_is_told_to(database: Database) -> None:
    with Site(database.owner_url) as site:
        address = f"127.0.0.1:{site.wait_until_read().port}"
        alive = probe(None, address, "/health")
        site.stop()

    assert (alive, probe(None, address, "/health")) == (0, 1)


def test_the_settings_in_the_image_and_its_composition_exist() -> None:
    named = re.findall(r"CABINET_RECOVERY_[A-Z_]+", "".join(path.read_text() for path in FOLDER.iterdir()))

    assert named
    assert set(named) <= set(DEFAULTS)


@pytest.mark.parametrize(
    ("address", "status"), [(None, 0), ("", 0), (":1", 1), ("0.0.0.0:1", 1), ("[::]:1", 1), ("localhost:1", 1)]
)
def test_the_probe_fails_where_an_endpoint_was_asked_for_and_is_not_there(address: str | None, status: int) -> None:
    assert probe(address) == status


def test_the_probe_passes_while_the_daemon_is_alive_and_fails_once_it_is_gone(database: Database) -> None:
    with Daemon(database.url, metrics_address="127.0.0.1:0") as daemon:
        address = f"0.0.0.0:{Scraper(daemon).port}"
        daemon.wait_until_ready()
        alive = probe(address)
        daemon.stop()

    assert (alive, probe(address)) == (0, 1)
