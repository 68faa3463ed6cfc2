"""The daemon's endpoint, as a Prometheus or a probe meets it."""

import http.client
import json
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from tests.processes import Daemon, eventually

SECONDS = 20.0


@dataclass(frozen=True)
class Answer:
    status: int
    body: str
    content_type: str


class Scraper:
    """Asks the endpoint of a daemon that was told to serve one on any free port."""

    def __init__(self, daemon: Daemon) -> None:
        self.port = int(daemon.wait_for("metrics.served")["port"])

    def get(self, path: str, method: str = "GET") -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)
        connection.request(method, path)
        response = connection.getresponse()
        body = response.read().decode()
        connection.close()
        return Answer(response.status, body, response.headers["Content-Type"])

    def samples(self) -> dict[str, float]:
        """What /metrics says: name{label="value"} without our prefix, and the value."""
        return samples_of(self.get("/metrics").body)

    def wait_until(self, **values: float | None) -> None:
        """Wait until each sample has the value, or is missing (None)."""

        def is_so() -> bool:
            samples = self.samples()
            return {name: samples.get(name) for name in values} == values

        eventually(is_so)


def samples_of(exposition: str) -> dict[str, float]:
    found = {}
    for family in text_string_to_metric_families(exposition):
        for sample in family.samples:
            labels = ",".join(f"{name}={json.dumps(value)}" for name, value in sample.labels.items())
            name = sample.name.removeprefix("cabinet_recovery_")
            found[f"{name}{{{labels}}}" if labels else name] = sample.value
    return found
