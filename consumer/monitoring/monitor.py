"""What the daemon shows to those who watch it: /metrics, /livez and /readyz."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus

import structlog
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from consumer.errors import one_line
from consumer.handlers.outcome import Batch
from consumer.handlers.recover import Asked, Handler
from consumer.monitoring.endpoint import Endpoint, Page, open_listening
from consumer.monitoring.metrics import GAUGES, Metrics, Reading
from consumer.monitoring.survey import Survey
from consumer.outage import Outage
from consumer.proof import Proof
from consumer.role import Place, Role, RoleDied
from consumer.settings import PREFIX, Settings
from consumer.watchdog import Watchdog
from db.connect import DatabaseError

log = structlog.get_logger(__name__)

RECENT_INTERVALS = 2  # a sweep that takes long, or was put off once
RECENT_SLACK_SECONDS = 60  # as a batch and its listing may


@dataclass
class ObservedHandler(Handler):
    """A handler that tells of each batch: what it came to, how long it took, whether somebody asked for it."""

    on_batch: Callable[..., None] = field(kw_only=True)

    async def recover(self, lead_ids: Sequence[str], asked: Asked | None = None) -> Batch:
        started = time.monotonic()
        batch = await super().recover(lead_ids, asked)
        self.on_batch(batch, time.monotonic() - started, is_asked=asked is not None)
        return batch


class Monitor:
    """Serves what is known of the daemon, and adds the survey, on a connection of its own.

    It takes no part in the recovery: where the survey is refused or fails, its figures are missing and a line in the
    log says why; its outages are its own, and the watchdog does not wait for it.
    """

    def __init__(self, settings: Settings, roles: Sequence[Role], proof: Proof, watchdog: Watchdog) -> None:
        self._settings = settings
        self._proof = proof
        self._watchdog = watchdog
        self._survey = Survey(settings.metrics_interval_seconds)
        place = Place(settings.database, settings.reconnect_max_seconds)
        outage = Outage(settings.outage_log_interval_seconds)
        self._surveyor = Role("surveyor", self._survey.use, place, outage, holds_work=False)
        self._roles = {role.name: role for role in [*roles, self._surveyor]}
        self._metrics = Metrics(self._readings(), self._connections)
        self._registry = self._metrics.registry()
        self.pages = {"/metrics": self._show_metrics, "/livez": self._show_life, "/readyz": self._show_readiness}
        self.handler = partial(ObservedHandler, on_batch=self._metrics.observe)

    async def open(self) -> None:
        """Take the address; raises consumer.errors.SettingsError where it cannot be had."""
        assert self._settings.metrics_address is not None  # noqa: S101 # or there would be no monitor
        host, port = self._settings.metrics_address
        self._listening = await open_listening(host, port, PREFIX + "METRICS_ADDRESS")
        host, port, *_ = self._listening.getsockname()
        log.info("metrics.served", host=host, port=port)

    async def run(self) -> None:
        """Serve, once open, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(Endpoint(self.pages).serve(self._listening))
            group.create_task(self._take_surveys())
            try:
                await asyncio.Event().wait()
            finally:
                # Before the tasks are cancelled: to cancel, psycopg would ask the server, which may be what hangs.
                self._surveyor.sever()

    async def _take_surveys(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                self._surveyor.start(group)
        except* (DatabaseError, RoleDied) as errors:
            log.error("survey.ended", reason=one_line(errors.exceptions[0]))  # the roles will say so themselves

    def _readings(self) -> dict[str, Reading]:
        return {
            **{name: partial(self._survey.figure, name) for name in GAUGES},
            "listener_up": lambda: float(self._proof.is_proved),
            "listener_proof_age_seconds": lambda: self._roles["listener"].progress_age_seconds,
            "sweep_age_seconds": lambda: self._roles["sweeper"].progress_age_seconds,
            "survey_age_seconds": lambda: self._survey.age_seconds,
        }

    def _connections(self) -> Mapping[str, int]:
        return {name: role.connections for name, role in self._roles.items()}

    def _show_metrics(self) -> Page:
        return Page(generate_latest(self._registry), content_type=CONTENT_TYPE_PLAIN_0_0_4)

    def _show_life(self) -> Page:
        """Alive is what the service manager's watchdog takes for it: each role gives its sign of life."""
        overdue = self._watchdog.overdue()
        watched = [name for name in self._roles if name != self._surveyor.name]
        return _checks([(name not in overdue, f"{name} gives its signs of life") for name in watched])

    def _show_readiness(self) -> Page:
        """Ready is who hears each match, and sweeps up what was not heard."""
        heard, swept = (self._roles[name].progress_age_seconds for name in ("listener", "sweeper"))
        recent_seconds = RECENT_INTERVALS * self._settings.sweep_interval_seconds + RECENT_SLACK_SECONDS
        return _checks([
            (self._proof.is_proved, f"listener is proved to hear what is sent ({_ago(heard)})"),
            (
                swept is not None and swept <= recent_seconds,
                f"sweep was made within {recent_seconds} s ({_ago(swept)})",
            ),
        ])  # fmt: skip


def _ago(seconds: float | None) -> str:
    return "never yet" if seconds is None else f"{seconds:.0f} s ago"


def _checks(checks: Sequence[tuple[bool, str]]) -> Page:
    """A line for each check, and the status that is all of theirs."""
    body = "".join(f"{'ok' if is_met else 'failed'}: {line}\n" for is_met, line in checks)
    is_fine = all(is_met for is_met, _ in checks)
    return Page(body.encode(), HTTPStatus.OK if is_fine else HTTPStatus.SERVICE_UNAVAILABLE)
