"""The protocol of mode 'adaptive' as a machine of few states, so that all that can ever happen can be tried.

Two transactions of the engine, again and again; two consumers that crash, start anew, lose a connection or leave a
session behind that the server believes in; a mode that is switched; a lease that runs out. Time is a step like any
other. What the machine says is what `ops.cabinet_recovery_rings` and `consumer/keeper.py` do.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple


class Engine(NamedTuple):
    """A transaction: `idle`, `begun`, `silent` or `ringing` until its end, `committed` until its event is handled.

    `saw_lease`: what its snapshot shows, and the clock has not overtaken yet. `known_to`: which consumers have the
    event in their inbox, or a notification of it on its way. `is_shown`: to a look that took its snapshot too soon.
    """

    phase: str = "idle"
    saw_lease: bool = False
    known_to: tuple[bool, ...] = (False, False)
    is_shown: bool = False


class Consumer(NamedTuple):
    """`role` is its keeper's."""

    role: str = "down"
    listens: bool = False
    sweeps: bool = False


class World(NamedTuple):
    """`ghost`: the locks that the server holds for a session whose consumer is gone."""

    engines: tuple[Engine, ...] = (Engine(), Engine())
    consumers: tuple[Consumer, ...] = (Consumer(), Consumer())
    ghost: str = ""  # or "keeper", or "keeper asleep"
    lease: str = "none"  # or "granted", or "over"
    is_adaptive: bool = True
    faults: int = 1  # yet to come


ASLEEP = ("locked", "asleep", "leased")
KEEPS = ("taken", "settling", "snapped", "awake", *ASLEEP)
# What consumers do within a second, by themselves, until there is nothing left to do: they sweep by no clock, and
# none is woken.
QUIET = (
    "listens again", "sweeps", "works", "becomes the keeper", "looks at what others leave", "ends the lease",
    "looks", "has little to do", "unlocks", "takes its snapshot", "locks and looks", "locks", "looks once more",
    "forgets the lease",
)  # fmt: skip
Steps = Iterator[tuple[str, World]]


@dataclass(frozen=True)
class Protocol:
    """The steps; each flag is a way to get them wrong."""

    looks_before_it_locks: bool = False
    looks_in_the_same_statement: bool = False
    others_do_not_watch: bool = False
    engine_does_not_hold: bool = False
    sleeps_without_the_lock: bool = False
    lease_is_forgotten_early: bool = False
    lease_is_forgotten_at_once: bool = False
    silent_without_a_lease: bool = False

    def steps(self, world: World) -> Steps:
        """Whatever can happen next, and the world after it."""
        for number in range(len(world.engines)):
            yield from self._engine_steps(world, number)
        for number in range(len(world.consumers)):
            yield from self.consumer_steps(world, number)
        yield from _faults(world)
        if world.lease == "granted":
            yield "the lease runs out", _overtaken(world._replace(lease="over"))

    def _engine_steps(self, world: World, number: int) -> Steps:
        engine = world.engines[number]
        if engine.phase == "idle":
            saw = world.is_adaptive and (world.lease == "granted" or self.silent_without_a_lease)
            yield f"engine {number} begins", _with_engine(world, number, Engine("begun", saw))
        elif engine.phase == "begun":
            is_silent = engine.saw_lease and not self._is_sleep_lock_held(world)
            yield f"engine {number} writes", _with_engine(world, number, Engine("silent" if is_silent else "ringing"))
        elif engine.phase in ("silent", "ringing"):
            rung = tuple(one.listens and engine.phase == "ringing" for one in world.consumers)
            yield f"engine {number} commits", _with_engine(world, number, Engine("committed", known_to=rung))
            yield f"engine {number} rolls back", _with_engine(world, number, Engine())

    def _is_sleep_lock_held(self, world: World) -> bool:
        """Whether a keeper has it, for itself alone."""
        holding = ("locked", "leased") if self.sleeps_without_the_lock else ASLEEP
        return world.ghost == "keeper asleep" or any(one.role in holding for one in world.consumers)

    def _is_sleep_lock_free(self, world: World) -> bool:
        is_shared = not self.engine_does_not_hold and any(one.phase == "silent" for one in world.engines)
        return not is_shared and not self._is_sleep_lock_held(world)

    def consumer_steps(self, world: World, number: int) -> Steps:
        consumer = world.consumers[number]
        if consumer.role == "down":
            yield "starts", _with_consumer(world, number, Consumer("standby", listens=True, sweeps=True))
            return
        if not consumer.listens:
            yield "listens again", _with_consumer(world, number, consumer._replace(listens=True, sweeps=True))
        if consumer.sweeps:
            yield "sweeps", _handled(_with_consumer(world, number, consumer._replace(sweeps=False)), lambda _: True)
        if any(engine.known_to[number] for engine in world.engines):
            yield "works", _handled(world, lambda engine: engine.known_to[number])
        yield from getattr(self, f"_when_{consumer.role}")(world, number)

    def _when_standby(self, world: World, number: int) -> Steps:
        has_keeper = bool(world.ghost) or any(one.role in KEEPS for one in world.consumers)
        if not (world.is_adaptive or world.lease != "none") or (has_keeper and self.others_do_not_watch):
            return
        if not has_keeper:
            yield "becomes the keeper", _becomes(world, number, "taken")
        elif world.lease != "none":
            yield "looks at what others leave", _handled(world, lambda _: True)

    def _when_taken(self, world: World, number: int) -> Steps:
        yield "ends the lease", _becomes(self._with_lease_ended(world), number, "settling")

    def _when_settling(self, world: World, number: int) -> Steps:
        yield "looks", _looked(world, number)
        if self.looks_in_the_same_statement:
            shown = _each_engine(world, lambda engine: engine._replace(is_shown=engine.phase == "committed"))
            yield "takes its snapshot", _becomes(shown, number, "snapped")
        elif self._is_sleep_lock_free(world):
            yield "locks", _becomes(world, number, "asleep" if self.looks_before_it_locks else "locked")
        yield from _woken(world, number, "awake")

    def _when_snapped(self, world: World, number: int) -> Steps:
        unseen = _each_engine(world, lambda engine: engine._replace(is_shown=False))
        if self._is_sleep_lock_free(world):
            looked = _looked(world, number, lambda engine: engine.is_shown)
            yield "locks and looks", _becomes(looked, number, "asleep")
        else:
            yield "cannot lock", _becomes(unseen, number, "settling")

    def _when_locked(self, world: World, number: int) -> Steps:
        after = world._replace(lease="none") if self.lease_is_forgotten_at_once else world
        yield "looks once more", _becomes(_looked(after, number), number, "asleep")

    def _when_asleep(self, world: World, number: int) -> Steps:
        if world.lease != "none" and not any(engine.known_to[number] for engine in world.engines):
            # When the time is over that was granted last: no snapshot shows a lease any more, whatever its age.
            yield "forgets the lease", _overtaken(world._replace(lease="none"))
        yield from _woken(world, number, "leased")

    def _when_leased(self, world: World, number: int) -> Steps:
        yield "unlocks", _becomes(world, number, "awake")

    def _when_awake(self, world: World, number: int) -> Steps:
        yield "looks", _looked(world, number)
        yield "has little to do", _becomes(self._with_lease_ended(world), number, "settling")

    def _with_lease_ended(self, world: World) -> World:
        return world._replace(lease="none" if self.lease_is_forgotten_early else "over")


def _woken(world: World, number: int, role: str) -> Steps:
    if world.is_adaptive:
        yield "is woken", _becomes(world._replace(lease="granted"), number, role)


def _faults(world: World) -> Steps:
    if not world.faults:
        return
    world = world._replace(faults=world.faults - 1)
    yield "the mode is switched", world._replace(is_adaptive=not world.is_adaptive)
    if world.ghost:
        yield "the server notices", world._replace(ghost="")
    for number, consumer in enumerate(world.consumers):
        if consumer.role != "down":
            for name, after in _faults_of(world, number, consumer):
                yield f"consumer {number} {name}", after


def _faults_of(world: World, number: int, consumer: Consumer) -> Steps:
    unheard = _each_engine(world, lambda engine: engine._replace(known_to=_set(engine.known_to, number, value=False)))
    gone = _with_consumer(unheard, number, Consumer())
    yield "crashes", gone
    if consumer.listens:
        yield "loses its listener", _with_consumer(unheard, number, consumer._replace(listens=False))
    if consumer.role in KEEPS:
        yield "dies unnoticed", gone._replace(ghost="keeper asleep" if consumer.role in ASLEEP else "keeper")
        yield "loses its keeper", _becomes(world, number, "standby")


def _with_engine(world: World, number: int, engine: Engine) -> World:
    return world._replace(engines=_set(world.engines, number, engine))


def _with_consumer(world: World, number: int, consumer: Consumer) -> World:
    return world._replace(consumers=_set(world.consumers, number, consumer))


def _becomes(world: World, number: int, role: str) -> World:
    return _with_consumer(world, number, world.consumers[number]._replace(role=role))


def _set(members: tuple[Any, ...], number: int, value: Any) -> tuple[Any, ...]:
    return (*members[:number], value, *members[number + 1 :])


def _each_engine(world: World, change: Callable[[Engine], Engine]) -> World:
    return world._replace(engines=tuple(change(engine) for engine in world.engines))


def _handled(world: World, which: Callable[[Engine], bool]) -> World:
    return _each_engine(world, lambda engine: Engine() if engine.phase == "committed" and which(engine) else engine)


def _looked(world: World, number: int, which: Callable[[Engine], bool] = lambda _: True) -> World:
    """What is committed is in the consumer's inbox."""

    def seen(engine: Engine) -> Engine:
        if engine.phase == "committed" and which(engine):
            return engine._replace(known_to=_set(engine.known_to, number, value=True))
        return engine

    return _each_engine(world, seen)


def _overtaken(world: World) -> World:
    """The clock has overtaken every lease that a snapshot may show."""
    return _each_engine(world, lambda engine: engine._replace(saw_lease=False))


class History:
    """All worlds that can come about by a protocol, and how each first did."""

    def __init__(self, protocol: Protocol, faults: int) -> None:
        self._protocol = protocol
        self._start = World(faults=faults)
        self._came_from: dict[World, tuple[str, World]] = {}
        self._ends_well: dict[World, bool] = {}

    def __len__(self) -> int:
        return len(self._came_from)

    def first_loss(self) -> list[str] | None:
        """The shortest way to a world in which a committed event is forgotten; None where there is none.

        Forgotten: consumers live, and do what they do within a second until they are quiet, but do not come upon it.
        The engine does nothing meanwhile, whatever it holds, no fault is mended, and nobody sweeps by the clock.
        """
        waiting, seen = [self._start], {self._start}
        for world in waiting:
            if self._forgets(world):
                return self._way_to(world)
            for name, step in self._protocol.steps(world):
                after = _like(step)
                if after not in seen:
                    seen.add(after)
                    self._came_from[after] = (name, world)
                    waiting.append(after)
        return None

    def _forgets(self, world: World) -> bool:
        is_due = any(engine.phase == "committed" for engine in world.engines)
        return is_due and any(one.role != "down" for one in world.consumers) and not self._is_well(world)

    def _is_well(self, world: World) -> bool:
        """Whether nothing is left once all is quiet."""
        path: list[World] = []
        while world not in self._ends_well:
            self._ends_well[world] = False  # for who comes here again without an end
            path.append(world)
            quieter = self._quieter(world)
            if quieter is None:
                self._ends_well[world] = all(engine.phase != "committed" for engine in world.engines)
                break
            world = quieter
        ends_well = self._ends_well[world]
        self._ends_well.update(dict.fromkeys(path, ends_well))
        return ends_well

    def _quieter(self, world: World) -> World | None:
        done = [
            dict(self._protocol.consumer_steps(world, number))
            for number, consumer in enumerate(world.consumers)
            if consumer.role != "down"
        ]
        changes = (steps[name] for name in QUIET for steps in done if name in steps)
        return next((_like(after) for after in changes if after != world), None)

    def _way_to(self, world: World) -> list[str]:
        names: list[str] = []
        while world != self._start:
            name, world = self._came_from[world]
            names.append(name)
        return names[::-1]


def _like(world: World) -> World:
    """One of all the worlds that differ only in which transaction is called the first."""
    first, second = world.engines
    return world if first <= second else world._replace(engines=(second, first))
