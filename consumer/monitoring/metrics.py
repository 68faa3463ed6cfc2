"""What Prometheus is told, by name; docs/reference.md is made of this."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from consumer.handlers.outcome import Batch, Outcome

PREFIX = "cabinet_recovery_"
LAG_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3600, 86400)
BATCH_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)

Reading = Callable[[], float | None]

# By name; the unit is in it. What is not known has no sample: a figure of yesterday would hide that something is wrong.
GAUGES: dict[str, str] = {
    "listener_up": "1 while the listener is proved to hear what is sent through the server, else 0.",
    "listener_proof_age_seconds": "Since the listener last heard a proof; no sample before the first.",
    "sweep_age_seconds": "Since a sweep last ended or, in a long one, had a batch done; no sample before the first.",
    "pending_leads": (
        "Leads with events that are to be worked now, up to 1000; one that failed counts again once its pause is over."
    ),
    "oldest_pending_seconds": "Age of the oldest event of the pending leads (those counted), 0 where there is none.",
    "parked_leads": "Leads given up because of their data, up to 1000: `consumer parked list`.",
    "windows_closing_leads": (
        "Leads that were matched but are not recovered (pending, failed, parked, or their person is unknown yet) and "
        "whose window closes within 48 hours; of the first 1000 of each kind."
    ),
    "triggers_enabled": "1 while all triggers that turn matches into events are there and fire, else 0.",
    "notify_queue_ratio": "How full the server's notification queue is; at 1, commits that notify fail.",
    "survey_age_seconds": (
        "Since the database was last asked for the figures of the queue; older than three intervals, those have no "
        "sample."
    ),
}


class Buckets:
    """Counts observations by upper bound, as a histogram of Prometheus does."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def as_family(self, name: str, documentation: str) -> HistogramMetricFamily:
        limits = [*map(str, map(float, self._bounds)), "+Inf"]
        buckets = list(zip(limits, map(float, accumulate(self._counts)), strict=True))
        return HistogramMetricFamily(PREFIX + name, documentation, buckets=buckets, sum_value=self._sum)


class Metrics(Collector):
    """Counts what batches come to, and reads everything else at the moment of a scrape.

    `readings` has a function for each of GAUGES, `connections` one that tells how many each role has made. They must
    be cheap: a scrape runs in the event loop.
    """

    def __init__(self, readings: Mapping[str, Reading], connections: Callable[[], Mapping[str, int]]) -> None:
        self._readings = readings
        self._connections = connections
        self._leads: Counter[Outcome] = Counter(dict.fromkeys(Outcome, 0))
        self._lag = Buckets(LAG_BOUNDS)
        self._batch = Buckets(BATCH_BOUNDS)

    def observe(self, batch: Batch, seconds: float, *, is_asked: bool) -> None:
        """Take in a batch that is done. Where a sweep or an operator asked, no lag is counted: there was no match."""
        self._batch.observe(seconds)
        for recovery in batch.recoveries:
            self._leads[recovery.outcome] += 1
            if recovery.outcome == Outcome.RECOVERED and recovery.lag_ms is not None and not is_asked:
                self._lag.observe(max(0.0, recovery.lag_ms / 1000))

    def registry(self) -> CollectorRegistry:
        """A registry of our own: nothing of the process or of other libraries is in it."""
        registry = CollectorRegistry()
        registry.register(self)
        return registry

    def collect(self) -> Iterator[Metric]:
        leads = CounterMetricFamily(
            PREFIX + "leads", "Leads worked since the start, by what became of them.", labels=["outcome"]
        )
        for outcome, count in self._leads.items():
            leads.add_metric([str(outcome)], count)
        yield leads
        yield self._lag.as_family(
            "lag_seconds",
            "From a lead's oldest event to its recovery, by the server's clock: recovered leads whose match was heard "
            "of by its event.",
        )
        yield self._batch.as_family("batch_seconds", "Time that a batch took, of the worker or of a sweep.")
        for name, documentation in GAUGES.items():
            gauge = GaugeMetricFamily(PREFIX + name, documentation)
            if (value := self._readings[name]()) is not None:
                gauge.add_metric([], value)
            yield gauge
        yield self._reconnects()
        yield InfoMetricFamily(
            PREFIX + "build", "The version that runs.", value={"version": version("cabinet-recovery")}
        )

    def _reconnects(self) -> Metric:
        family = CounterMetricFamily(
            PREFIX + "reconnects", "Connections made anew since the start, by role.", labels=["role"]
        )
        for role, connections in self._connections().items():
            family.add_metric([role], max(0, connections - 1))
        return family
