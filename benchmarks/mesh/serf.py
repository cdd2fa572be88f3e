"""HashiCorp's serf as Debian ships it, LAN profile, its own RPC for joins and events (what ``serf join`` and ``serf event`` use)."""

import contextlib
import random
import re
import socket
import subprocess
import threading
import time
from collections.abc import Iterable
from subprocess import PIPE, STDOUT
from typing import Any

import msgpack

from benchmarks.hosts import Line, World
from benchmarks.mesh.peer import Peer, Seat, now_ns

PORT = 7946
RPC_PORT = 7373
# serf's library logs a member's change at once; the agent's own "Received event" comes after up to 3 s of coalescing.
MEMBER = re.compile(rb"serf: EventMember(Join|Failed|Leave|Reap): (\S+)")
EVENT = re.compile(rb"agent: Received event: user-event: (\S+)")
STATES = {b"Join": "alive", b"Failed": "failed", b"Leave": "left", b"Reap": "left"}


class Serf(Peer):
    """``serf agent`` on every host."""

    name = "serf"

    def __init__(self, world: World, rng: random.Random) -> None:
        super().__init__(world, rng)
        self._rpc: dict[str, _Rpc] = {}

    def start(self, seats: Iterable[Seat], joined: bool = True) -> None:
        chosen = list(seats)
        for seat in chosen:
            seat.view.clear()
            seat.heard.clear()
            seat.up = False
            seat.process = seat.host.spawn(
                ["serf", "agent", f"-node={seat.host.name}", f"-bind={seat.host.ip}:{PORT}", f"-rpc-addr=127.0.0.1:{RPC_PORT}",
                 "-log-level=info", "-profile=lan"],
                stdout=PIPE, stderr=STDOUT,
            )  # fmt: skip
            assert seat.process.stdout is not None
            self.world.output.take(seat.process.stdout, lambda line, seat=seat: self._line(seat, line))
        self.wait_up(chosen)
        for seat in chosen:
            self._rpc[seat.host.name] = _Rpc(seat)
        if joined:
            self._join(chosen)

    def stop(self, seats: Iterable[Seat] | None = None, kill: bool = False) -> None:
        for seat in list(self.seats.values() if seats is None else seats):
            if (rpc := self._rpc.pop(seat.host.name, None)) is not None:
                rpc.close()
            if seats is None and not kill and seat.process is not None:
                seat.process.kill()  # a clean leave of everybody tells us nothing and takes seconds
        super().stop(seats, kill)

    def meet(self) -> int:
        return self._join(list(self.seats.values()))

    def join_means(self) -> str:
        return "agents up and alone; `serf join` of the first node at all others at once; until all see all"

    def say(self, seat: Seat, text: str) -> None:
        self._rpc[seat.host.name].call("event", {"Name": text, "Payload": b"", "Coalesce": False})

    def _join(self, seats: list[Seat]) -> int:
        first = next(iter(self.seats.values()))
        joiners = [seat for seat in seats if seat is not first] if len(seats) > 1 else seats
        targets = [first.host.ip] if seats != [first] else [list(self.seats.values())[1].host.ip]
        began = now_ns()
        # At once, as hosts that boot together would: each call returns only after its push-pull.
        words = {"Existing": [f"{ip}:{PORT}" for ip in targets], "Replay": False}
        calls = [threading.Thread(target=_insist, args=(self._rpc[seat.host.name], words)) for seat in joiners]
        for call in calls:
            call.start()
        for call in calls:
            call.join()
        return began

    def _line(self, seat: Seat, line: Line) -> None:
        if match := EVENT.search(line.text):
            seat.heard.setdefault(match[1].decode(), line.at_ns)
        elif match := MEMBER.search(line.text):
            self.saw(seat, line.at_ns, match[2].decode(), STATES[match[1]])
        elif b"agent: Serf agent starting" in line.text or b"Serf agent running" in line.text:
            seat.up = True
        else:
            seat.last_words = line.text


class _Rpc:
    """serf's RPC: a header and a body, each one msgpack value, in each direction."""

    def __init__(self, seat: Seat) -> None:
        self._socket = _dial(seat)
        self._unpacker = msgpack.Unpacker(raw=False)
        self._sequence = 0
        self._lock = threading.Lock()
        self.call("handshake", {"Version": 1})

    def call(self, command: str, body: dict[str, Any]) -> None:
        """One command; ``RuntimeError`` with serf's words when it refuses."""
        with self._lock:
            self._sequence += 1
            header = {"Command": command, "Seq": self._sequence}
            self._socket.sendall(_pack(header) + _pack(body))
            answer = self._value()
            if answer["Error"]:
                raise RuntimeError(f"serf {command}: {answer['Error']}")
            if command == "join":
                self._value()

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def _value(self) -> Any:
        while True:
            for value in self._unpacker:
                return value
            data = self._socket.recv(4096)
            if not data:
                raise RuntimeError("serf hung up")
            self._unpacker.feed(data)


def _insist(rpc: _Rpc, words: dict[str, Any], tries: int = 5) -> None:
    """Join; once more where the first node was too busy to answer, as serf's own -retry-join does."""
    for _ in range(tries):
        with contextlib.suppress(RuntimeError):
            rpc.call("join", words)
            return
        time.sleep(0.2)


def _dial(seat: Seat, tries: int = 100) -> socket.socket:
    for _ in range(tries):
        try:
            dialled = seat.host.connect("127.0.0.1", RPC_PORT)
        except ConnectionRefusedError:
            time.sleep(0.02)
            continue
        dialled.settimeout(30)
        return dialled
    raise RuntimeError(f"serf's RPC on {seat.host.name} does not answer")


def _pack(value: dict[str, Any]) -> bytes:
    packed = msgpack.packb(value, use_bin_type=False)  # serf's codec is older than msgpack's own type for bytes
    assert packed is not None
    return packed


def version() -> str:
    """What Debian calls the serf that is installed here."""
    done = subprocess.run(["dpkg-query", "-W", "-f", "${Version}", "serf"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"
