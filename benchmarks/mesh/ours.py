"""Our own agents. The mesh is founded and all memberships are issued here, offline: joining by invite is not what is measured."""

import json
import os
import random
import secrets
import shutil
import socket
import time
from collections.abc import Iterable
from pathlib import Path
from subprocess import PIPE, STDOUT

from benchmarks.hosts import Line, World
from benchmarks.hosts.host import python
from benchmarks.mesh.peer import Peer, Seat, now_ns
from cloudisense.clock import read_clock
from cloudisense.home import Home, certify
from cloudisense.keys.identity import Identity

PORT = 7963
SEEDS = 3
ROLES = ("member", "actor")


class Ours(Peer):
    """``cloudisense up --json`` on every host."""

    name = "ours"

    def __init__(self, world: World, rng: random.Random, ipv6: bool = False) -> None:
        super().__init__(world, rng)
        self._ipv6 = ipv6
        self._made = False

    def home(self, seat: Seat) -> Home:
        """The node's state folder."""
        return Home(seat.host.folder / "state")

    def start(self, seats: Iterable[Seat], joined: bool = True) -> None:
        chosen = list(seats)
        if not joined and self._made:
            # serf remembers nobody either: what is measured is how strangers meet, not how a mesh restarts.
            for seat in chosen:
                shutil.rmtree(self.home(seat).path)
            self._made = False
        if not self._made:
            self._make()
        if not joined:
            self.world.mute(*(seat.host for seat in chosen))
        for seat in chosen:
            seat.view.clear()
            seat.heard.clear()
            seat.up = False
            command = python("cloudisense", "up", "--json", "--state", str(self.home(seat).path))
            seat.process = seat.host.spawn(command, stdout=PIPE, stderr=STDOUT)
            assert seat.process.stdout is not None
            self.world.output.take(seat.process.stdout, lambda line, seat=seat: self._line(seat, line))
        self.wait_up(chosen)

    def meet(self) -> int:
        began = now_ns()
        self.world.heal()
        return began

    def join_means(self) -> str:
        return "new agents that know three seeds, up, and all but ARP dropped; the cut ends; until all see all (with the wait for a try)"

    def say(self, seat: Seat, text: str) -> None:
        with socket.socket(socket.AF_UNIX) as control:
            control.settimeout(30)
            control.connect(str(self.home(seat).socket))
            control.sendall(f"note {text}\n".encode())
            if b"noted" not in control.recv(4096):
                raise RuntimeError(f"{seat.host.name} did not take the note")

    def _line(self, seat: Seat, line: Line) -> None:
        try:
            said = json.loads(line.text)
        except ValueError:
            seat.last_words = line.text
            return
        match said["topic"]:
            case "up":
                seat.up = True
            case "member":
                self.saw(seat, line.at_ns, said["node"], said["state"])
            case "note":
                seat.heard.setdefault(said["text"], line.at_ns)
            case _:
                pass

    def _make(self) -> None:
        """Found at n1, certify the others, as a join would leave them behind."""
        first, *rest = self.seats.values()
        now = read_clock()
        seeds = tuple((self._ip(seat), PORT) for seat in list(self.seats.values())[:SEEDS])
        home = self._locked(first)
        founder = home.found(first.host.name, self._config(first), now)
        home.unlock()
        for seat in rest:
            identity = Identity(secrets.token_bytes(32))
            certificate, leaf = certify(
                founder.identity, founder.roster, founder.mesh_id, identity.id, seat.host.name, ROLES, (), now
            )  # fmt: skip
            home = self._locked(seat)
            home.enrol(identity, certificate, leaf, founder.chain, seeds, self._config(seat))
            home.unlock()
        self._made = True

    def _ip(self, seat: Seat) -> str:
        return seat.host.ip6 if self._ipv6 else seat.host.ip

    def _config(self, seat: Seat) -> str:
        ip = f"[{seat.host.ip6}]" if self._ipv6 else seat.host.ip
        return f'[mesh]\nbind = "{ip}:{PORT}"\n[agent]\nplanners = ["rules"]\n'

    def _locked(self, seat: Seat) -> Home:
        home = self.home(seat)
        home.lock()
        return home


def fsync_ms(folder: Path, count: int = 50) -> float:
    """How long one small synced write takes in ``folder``, in milliseconds, the median."""
    path = folder / "sync-probe"
    took: list[float] = []
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC)
    try:
        for _ in range(count):
            began = time.perf_counter()
            os.write(descriptor, bytes(4096))
            os.fdatasync(descriptor)
            took.append((time.perf_counter() - began) * 1000)
    finally:
        os.close(descriptor)
        path.unlink()
    return sorted(took)[count // 2]
