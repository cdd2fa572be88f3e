"""What a row needs of a mesh, ours or a peer's: start it, speak through it, and read what each node says of the others."""

import random
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from subprocess import Popen

from benchmarks.hosts import Host, World, wait_for
from benchmarks.hosts.host import end_process

ALIVE = "alive"
GONE = frozenset({"dead", "failed"})
"""Given up: our word, and serf's."""
KNOWN_GONE = GONE | {"agent_down", "stalled", "unreachable"}
"""Known not to answer, whatever the kind of silence."""


@dataclass(frozen=True, slots=True)
class Sight:
    """At ``at_ns`` (CLOCK_MONOTONIC) ``observer`` said that ``subject`` is ``state``."""

    at_ns: int
    observer: str
    subject: str
    state: str


@dataclass(slots=True)
class Seat:
    """One node of the mesh on its host."""

    host: Host
    process: "Popen[bytes] | None" = None
    up: bool = False
    view: dict[str, str] = field(default_factory=dict[str, str])
    heard: dict[str, int] = field(default_factory=dict[str, int])
    """Event -> when this node had it."""
    last_words: bytes = b""


class Peer(ABC):
    """A mesh on all hosts of a world. Times are CLOCK_MONOTONIC nanoseconds, taken when a node's line is read."""

    name = ""
    up_s = 60.0

    def __init__(self, world: World, rng: random.Random) -> None:
        self.world = world
        self.rng = rng
        self.seats = {host.name: Seat(host) for host in world.hosts}
        self.sights: list[Sight] = []

    @abstractmethod
    def start(self, seats: Iterable[Seat], joined: bool = True) -> None:
        """Start these nodes. With ``joined`` they know where to find the first one; without, each stays alone until ``meet``."""

    @abstractmethod
    def meet(self) -> int:
        """Let nodes that run and are alone find each other; returns when that began."""

    @abstractmethod
    def say(self, seat: Seat, text: str) -> None:
        """One small event to every node, from this one. ``text`` has no spaces."""

    @abstractmethod
    def join_means(self) -> str:
        """What the row "join" measures here, in one line."""

    def stop(self, seats: Iterable[Seat] | None = None, kill: bool = False) -> None:
        """End these nodes, or all."""
        chosen = [seat for seat in (self.seats.values() if seats is None else seats) if seat.process is not None]
        for seat in chosen:
            assert seat.process is not None
            if kill:
                seat.process.kill()
            elif seat.process.poll() is None:
                seat.process.terminate()
        for seat in chosen:
            assert seat.process is not None
            end_process(seat.process)
            seat.process, seat.up = None, False

    # -- what the nodes say --------------------------------------------------------------------------------------------

    def saw(self, seat: Seat, at_ns: int, subject: str, state: str) -> None:
        """Called by the reader of ``seat``'s output."""
        if subject != seat.host.name:
            seat.view[subject] = state
            self.sights.append(Sight(at_ns, seat.host.name, subject, state))

    def others(self, *names: str) -> list[Seat]:
        """Every node but these."""
        return [seat for name, seat in self.seats.items() if name not in names]

    def whole(self) -> bool:
        """Does every node that runs see every other as alive?"""
        running = [seat for seat in self.seats.values() if seat.process is not None]
        names = {seat.host.name for seat in running}
        return all(all(seat.view.get(name) == ALIVE for name in names - {seat.host.name}) for seat in running)

    def settle(self, seconds: float = 90.0) -> bool:
        """Wait until the mesh is whole; begin it anew when it is not in time. Whether it became whole by itself."""
        if wait_for(self.whole, seconds, 0.02):
            return True
        self.begin_anew()
        if not wait_for(self.whole, self.up_s, 0.02):
            raise RuntimeError(f"{self.name}: the mesh does not come together; {self.strangers()}")
        return False

    def begin_anew(self) -> None:
        """Heal all cuts, kill every node and start them all."""
        self.world.heal()
        self.stop(kill=True)
        self.start(self.seats.values())

    def strangers(self) -> str:
        """Who does not see whom, briefly, for a person."""
        missing = [
            f"{seat.host.name}: {name} {seat.view.get(name, 'unknown')}"
            for seat in self.seats.values()
            for name in self.seats
            if name != seat.host.name and seat.view.get(name) != ALIVE
        ]
        return f"{len(missing)} views: {', '.join(missing[:5])}"

    def since(self, at_ns: int) -> list[Sight]:
        """What was said from ``at_ns`` on."""
        return [sight for sight in self.sights if sight.at_ns >= at_ns]

    def wait_up(self, seats: Iterable[Seat]) -> None:
        """Wait until these nodes say that they run."""
        waiting = list(seats)
        if not wait_for(lambda: all(seat.up for seat in waiting), self.up_s):
            late = next(seat for seat in waiting if not seat.up)
            raise RuntimeError(f"{self.name} on {late.host.name} did not come up: {late.last_words.decode(errors='replace')}")

    def pids(self) -> dict[str, int]:
        """Host name -> the process of its node."""
        return {name: seat.process.pid for name, seat in self.seats.items() if seat.process is not None}


def now_ns() -> int:
    """The clock of every figure here."""
    return time.monotonic_ns()
