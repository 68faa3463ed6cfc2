"""The dashboard and the alerts, asked of a real Prometheus that scrapes a real daemon: all have an answer."""

import json
import math
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest

from tests.box import CHECKOUT
from tests.database import Database
from tests.processes import Daemon, environment, eventually
from tests.scraping import Scraper

DASHBOARD = json.loads((CHECKOUT / "deploy/grafana/cabinet-recovery.json").read_text())
RULES = CHECKOUT / "deploy/prometheus/cabinet-recovery.rules.yml"
# As Grafana would fill them in; it takes four scrapes or more.
VARIABLES = {"$job": ".+", "$__rate_interval": "30s"}
CONFIGURATION = """
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: ["{rules}"]
scrape_configs: [{{job_name: cabinet-recovery, static_configs: [{{targets: ["127.0.0.1:{port}"]}}]}}]
"""
# Grafana's names of units, of those that our metrics have: seconds, shares, counts.
UNITS = {"_seconds": "s", "_seconds_bucket": "s", "_ratio": "percentunit"}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is missing: apt-get install prometheus"),
]


class Prometheus:
    def __init__(self, port: str) -> None:
        self._address = f"http://127.0.0.1:{port}/api/v1/"

    def ask(self, path: str, **query: str) -> Any:
        with urlopen(f"{self._address}{path}?{urlencode(query)}", timeout=20) as answer:
            return json.load(answer)["data"]

    def values(self, expression: str) -> list[float]:
        """What an expression has now, whatever its labels; an invalid one raises."""
        return [float(one["value"][1]) for one in self.ask("query", query=expression)["result"]]


@contextmanager
def prometheus(folder: Path, scraped_port: int) -> Iterator[Prometheus]:
    """A server at a port of its own choice, which it names in its log alone."""
    configuration = folder / "prometheus.yml"
    configuration.write_text(CONFIGURATION.format(rules=RULES, port=scraped_port))
    log = folder / "log"
    with log.open("w") as said:
        command = ["prometheus", f"--config.file={configuration}", f"--storage.tsdb.path={folder / 'data'}"]
        process = subprocess.Popen(
            [*command, "--web.listen-address=127.0.0.1:0"], stdout=said, stderr=said, env=environment(None)
        )
    try:
        port = eventually(lambda: re.search(r"msg=\"Listening on\" address=127\.0\.0\.1:(\d+)", log.read_text()))
        found = Prometheus(port[1])
        eventually(lambda: _answers(found))
        yield found
    finally:
        process.kill()
        process.wait()


def _answers(server: Prometheus) -> bool:
    try:
        return bool(server.values("cabinet_recovery_listener_up"))
    except URLError:
        return False


def expressions() -> Iterator[tuple[str, str]]:
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            expression = target["expr"]
            for name, value in VARIABLES.items():
                expression = expression.replace(name, value)
            yield panel["title"], expression


def test_every_panel_and_every_alert_is_answered_by_a_prometheus(database: Database, tmp_path: Path) -> None:
    with Daemon(database.url, metrics_address="127.0.0.1:0") as daemon:
        daemon.wait_until_ready()
        with prometheus(tmp_path, Scraper(daemon).port) as server:
            for number in range(3):  # a rate needs two scrapes between which something happened
                lead = database.lead(matched_to=database.person())
                daemon.wait_for_leads([lead])
                eventually(lambda seen=number + 1: server.values(RECOVERED) == [seen])
            eventually(lambda: not unanswered(server))
            rules = [rule for group in server.ask("rules")["groups"] for rule in group["rules"]]

    assert len(rules) == 8
    assert {rule["lastError"] for rule in rules if "lastError" in rule} == set()
    assert {rule["health"] for rule in rules} <= {"ok", "unknown"}


RECOVERED = 'cabinet_recovery_leads_total{outcome="recovered"}'


def unanswered(server: Prometheus) -> list[tuple[str, str]]:
    return [(title, expression) for title, expression in expressions() if not _finite(server.values(expression))]


def _finite(values: list[float]) -> bool:
    """A quantile of nothing is NaN, and no line in a panel."""
    return bool(values) and not any(math.isnan(value) for value in values)


def test_each_panel_has_the_unit_of_what_it_shows_and_no_data_source_of_ours() -> None:
    for panel in DASHBOARD["panels"]:
        first = panel["targets"][0]["expr"]
        (name, *_) = re.findall(r"cabinet_recovery_\w+", first)
        ending = next((ending for ending in UNITS if name.endswith(ending)), None)
        assert panel["fieldConfig"]["defaults"]["unit"] == (UNITS[ending] if ending else "short"), panel["title"]
    assert set(re.findall(r'"uid": "([^"]*)"', json.dumps(DASHBOARD))) == {"${datasource}", "cabinet-recovery"}
