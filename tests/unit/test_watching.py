"""Alerts, dashboard and reference speak of metrics and settings that exist, and of all of them."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client import generate_latest

from consumer.handlers.outcome import Batch
from consumer.monitoring.metrics import GAUGES, Metrics
from tests.box import CHECKOUT
from tests.scraping import samples_of

RULES, DASHBOARD = CHECKOUT / "deploy/prometheus", CHECKOUT / "deploy/grafana/cabinet-recovery.json"
NAME = re.compile(r"\bcabinet_recovery_\w+")


@pytest.fixture(scope="module")
def existing() -> set[str]:
    """The names of all samples of /metrics, as they stand in a query."""
    metrics = Metrics(dict.fromkeys(GAUGES, lambda: 1.0), lambda: {"listener": 1})
    metrics.observe(Batch(), 0.1, is_asked=False)
    samples = samples_of(generate_latest(metrics.registry()).decode())
    return {f"cabinet_recovery_{sample.partition('{')[0]}" for sample in samples}


def panels(dashboard: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from dashboard["panels"]


def test_every_metric_of_the_alerts_exists(existing: set[str]) -> None:
    used = set(NAME.findall((RULES / "cabinet-recovery.rules.yml").read_text()))

    assert used
    assert used <= existing
    assert set(NAME.findall((RULES / "cabinet-recovery.test.yml").read_text())) <= existing


def test_every_metric_of_the_dashboard_exists_and_none_is_left_out(existing: set[str]) -> None:
    text = DASHBOARD.read_text()
    used = set(NAME.findall(text))

    assert used <= existing
    assert {re.sub("_(bucket|sum|count)$", "", name) for name in existing} == {
        re.sub("_(bucket|sum|count)$", "", name) for name in used
    }


def test_the_dashboard_s_panels_are_told_apart_and_do_not_overlap() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    places = [panel["gridPos"] for panel in panels(dashboard)]
    cells = [
        (x, y)
        for at in places
        for x in range(at["x"], at["x"] + at["w"])
        for y in range(at["y"], at["y"] + at["h"])
    ]  # fmt: skip

    assert len(cells) == len(set(cells))
    assert all(0 <= x < 24 for x, _ in cells)
    assert len({panel["id"] for panel in panels(dashboard)}) == len(places)
    assert all(target["expr"] for panel in panels(dashboard) for target in panel["targets"])


@pytest.mark.parametrize("arguments", [("check", "rules", "cabinet-recovery.rules.yml"),
                                       ("test", "rules", "cabinet-recovery.test.yml")])  # fmt: skip
def test_promtool_is_content_with_the_alerts(arguments: tuple[str, ...]) -> None:
    if not shutil.which("promtool"):
        pytest.skip("promtool is not installed (Debian: prometheus)")
    done = subprocess.run(["promtool", *arguments], cwd=RULES, check=False, capture_output=True, text=True)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCESS" in done.stdout


def test_every_alert_is_tested_and_says_what_is_wrong_and_where_to_read_on() -> None:
    rules = (RULES / "cabinet-recovery.rules.yml").read_text()
    alerts = re.findall(r"- alert: (\w+)\n((?:(?!- alert:).)*)", rules, re.DOTALL)
    tested = (RULES / "cabinet-recovery.test.yml").read_text()

    assert len(alerts) == rules.count("alert:") == 8
    for name, text in alerts:
        assert re.search(r"summary: \S", text)
        assert re.search(r"description: \S", text)
        assert f"runbook_url: docs/runbook.md#{name.lower()}\n" in text
        assert re.search(rf"alertname: {name}\n +exp_alerts:\n +- ", tested), f"{name} is never raised in a test"


def test_the_reference_says_what_the_code_says() -> None:
    done = subprocess.run(
        [sys.executable, "docs/generate.py", "--check"], cwd=CHECKOUT, check=False, capture_output=True, text=True
    )

    assert (done.returncode, done.stderr) == (0, "")
