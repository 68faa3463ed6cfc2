"""Sequences of faults that nobody thought of: drawn at random, one on top of the other, and healed at the end."""

import signal
from contextlib import ExitStack

import psycopg
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from db.embedded import EmbeddedServer
from tests.chaos.form import in_form
from tests.chaos.proxy import BOTH, Proxy
from tests.chaos.trial import Trial, by_port, last
from tests.servers import TemplateDatabase

STEP_SECONDS = 0.5
SEQUENCES = settings(
    max_examples=in_form(4, 2),
    stateful_step_count=in_form(15, 6),
    phases=[Phase.generate],  # a sequence takes too long to look for a shorter one
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)


def test_drawn_at_random(server: EmbeddedServer, migrated: TemplateDatabase) -> None:
    run_state_machine_as_test(lambda: Faults(server, migrated), settings=SEQUENCES)


class Faults(RuleBasedStateMachine):
    """All of a sequence is one fault of a trial: it ends when everything is healed."""

    def __init__(self, server: EmbeddedServer, migrated: TemplateDatabase) -> None:
        super().__init__()
        self.server = server
        self.is_server_up = self.is_consumer_up = True
        self.is_frozen = False
        self.holder: psycopg.Connection | None = None
        self.closing = ExitStack()
        url = migrated.fresh()
        self.closing.callback(migrated.drop, url)
        self.closing.callback(server.start)
        self.proxy = self.closing.enter_context(Proxy(server.port))
        trial = Trial("sequences: drawn at random", url, service_url=by_port(url, self.proxy.port))
        self.url = url
        self.trial = self.closing.enter_context(trial)
        self.closing.enter_context(trial.fault())

    def teardown(self) -> None:
        with self.closing:
            self.unlock()
            self.proxy.release()
            self.server.start()
            self.thaw()
            if not self.is_consumer_up:
                self.trial.start_daemon()

    @precondition(lambda self: self.is_consumer_up)
    @rule()
    def kill_consumer(self) -> None:
        self.trial.kill_daemon()
        self.is_consumer_up = self.is_frozen = False
        last(STEP_SECONDS)

    @precondition(lambda self: not self.is_consumer_up)
    @rule()
    def start_consumer(self) -> None:
        self.trial.start_daemon()
        self.is_consumer_up = True
        last(STEP_SECONDS)

    @precondition(lambda self: self.is_consumer_up and not self.is_frozen)
    @rule()
    def freeze(self) -> None:
        self.trial.daemon.process.send_signal(signal.SIGSTOP)
        self.is_frozen = True
        last(STEP_SECONDS)

    @precondition(lambda self: self.is_frozen)
    @rule()
    def thaw(self) -> None:
        if self.is_frozen:
            self.trial.daemon.process.send_signal(signal.SIGCONT)
            self.is_frozen = False

    @precondition(lambda self: self.is_server_up)
    @rule(mode=st.sampled_from(["fast", "immediate", "killed"]))
    def end_server(self, mode: str) -> None:
        self.unlock()
        if mode == "killed":
            self.server.kill()
        else:
            self.server.stop(mode)  # type: ignore[arg-type]
        self.is_server_up = False
        last(STEP_SECONDS)

    @precondition(lambda self: not self.is_server_up)
    @rule()
    def start_server(self) -> None:
        self.server.start()
        self.is_server_up = True
        last(STEP_SECONDS)

    @rule(directions=st.sampled_from([BOTH, *([direction] for direction in BOTH)]))
    def hold_network(self, directions: list) -> None:
        self.proxy.hold(directions)
        last(STEP_SECONDS)

    @rule()
    def release_network(self) -> None:
        self.proxy.release()
        last(STEP_SECONDS)

    @rule()
    def reset_connections(self) -> None:
        self.proxy.reset()
        last(STEP_SECONDS)

    @precondition(lambda self: self.is_server_up)
    @rule()
    def end_sessions(self) -> None:
        self.trial.end_sessions("backend_type = 'client backend'")
        last(STEP_SECONDS)

    @precondition(lambda self: self.is_server_up and self.holder is None)
    @rule()
    def lock_origins(self) -> None:
        self.holder = psycopg.connect(self.url)
        self.holder.execute("LOCK TABLE canon.identity_origin IN SHARE MODE")
        last(STEP_SECONDS)

    @precondition(lambda self: self.holder is not None)
    @rule()
    def unlock(self) -> None:
        if self.holder is not None:
            self.holder.close()
            self.holder = None

    @precondition(lambda self: self.is_server_up)
    @rule()
    def match_many(self) -> None:
        self.trial.engine.match_new(300)
        last(STEP_SECONDS)
