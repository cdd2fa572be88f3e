"""One node: mesh and agent behind the one seam that the daemon and the simulator share (DESIGN section 2)."""

from collections.abc import Callable

from cloudisense.agent.core import Agent
from cloudisense.agent.requests import Answer
from cloudisense.agent.requests import Effect as AgentEffect
from cloudisense.keys.errors import RemoteProtocolError
from cloudisense.mesh.core import Event as MeshEvent
from cloudisense.mesh.core import Mesh
from cloudisense.mesh.effects import Address
from cloudisense.mesh.events import Knocked, Persisted, PortRefused, SendFailed
from cloudisense.mesh.instant import Instant
from cloudisense.mesh.outbound import Effect as MeshEffect

Effect = MeshEffect | AgentEffect


class Node:
    """``handle_*`` in, ``poll_effects`` out; the caller carries effects out and reports events back."""

    def __init__(self, mesh: Mesh, agent: Agent) -> None:
        self.mesh = mesh
        self.agent = agent
        self._effects: list[Effect] = []

    def start(self, now: Instant) -> None:
        """Begin."""
        self.mesh.start(now)
        self.agent.start(now)
        self._settle(now)

    def handle_datagram(self, data: bytes, source: Address, now: Instant) -> None:
        """One datagram from the socket."""
        self.mesh.handle_datagram(data, source, now)
        self._settle(now)

    def handle_bulk(self, peer: bytes, data: bytes, now: Instant) -> None:
        """One message over TLS."""
        self.mesh.handle_bulk(peer, data, now)
        self._settle(now)

    def handle_timer(self, now: Instant) -> None:
        """A deadline has come."""
        self.mesh.handle_timer(now)
        self.agent.handle_timer(now)
        self._settle(now)

    def handle_event(self, event: MeshEvent | Answer, now: Instant) -> None:
        """An effect was carried out."""
        if isinstance(event, Persisted | Knocked | PortRefused | SendFailed):
            self.mesh.handle_event(event, now)
        else:
            self.agent.handle_answer(event, now)
        self._settle(now)

    def command(self, do: Callable[[], object], now: Instant) -> None:
        """Run an operator's command on the cores, then let its consequences follow."""
        do()
        self._settle(now)

    def next_deadline(self) -> int | None:
        """When to call ``handle_timer`` next, in boot-time nanoseconds."""
        deadlines = [d for d in (self.mesh.next_deadline(), self.agent.next_deadline()) if d is not None]
        return min(deadlines, default=None)

    def poll_effects(self) -> list[Effect]:
        """What the world has to do now, in order."""
        effects, self._effects = self._effects, []
        return effects

    def _settle(self, now: Instant) -> None:
        """Hand the mesh's news to the agent until both are quiet, and collect their effects in order."""
        while news := self.mesh.poll_news():
            for item in news:
                try:
                    self.agent.handle_news(item, now)
                except RemoteProtocolError as error:
                    self.mesh.dropped[error.reason] += 1
        self._effects += self.mesh.poll_effects()
        self._effects += self.agent.poll_effects()
