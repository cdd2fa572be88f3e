"""How the agent speaks: entries in its own feed, and direct messages between holder and gate."""

from collections.abc import Callable

from cloudisense.agent.entries import KIND_OF, Body, Note, StepReply, StepRequest
from cloudisense.keys.capability import Capability
from cloudisense.keys.encoding import pack
from cloudisense.mesh.core import Mesh
from cloudisense.mesh.feed import OverQuota, Reference
from cloudisense.mesh.instant import Instant


class Speech:
    """Appends and sends for one agent; what it sends to itself comes back at once through ``loopback``."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self.loopback: Callable[[bytes, StepRequest | StepReply, Instant], None] = lambda peer, message, now: None

    def say(self, body: Body | Capability, now: Instant) -> Reference | None:
        """Append to our feed; it is folded here, and leaves, once it is durable. ``None``: over quota, not said."""
        kind = "capability" if isinstance(body, Capability) else KIND_OF[type(body)]
        try:
            return self._mesh.append(kind, pack(body), now).reference
        except OverQuota:
            return None

    def note(self, text: str, now: Instant) -> Reference:
        """Append an operator's note to our feed."""
        return self._mesh.append("note", pack(Note(text)), now).reference

    def send(self, peer: bytes, message: StepRequest | StepReply, now: Instant) -> None:
        """Tell one node, best effort."""
        if peer == self._mesh.id:
            self.loopback(peer, message, now)
        else:
            self._mesh.send_direct(peer, pack(message))

    def name_of(self, node: bytes) -> str:
        """A node's name for people."""
        if node == self._mesh.id:
            return self._mesh.name
        member = self._mesh.members.get(node)
        return member.alive.name if member is not None else "unknown"

    def present(self, node: bytes) -> bool:
        """Is this node counted on?"""
        member = self._mesh.members.get(node)
        return node == self._mesh.id or (member is not None and member.present)

    def may_offer(self, node: bytes, subject: bytes) -> bool:
        """May ``node`` plan for ``subject``? For itself any member may; for others an actor, and a witness never."""
        roles = self._mesh.roles_of(node)
        return roles is None or node == subject or ("actor" in roles and "witness" not in roles)

    def may_help(self, subject: bytes) -> bool:
        """May we act for ``subject``, or it for us? Not while others hold a newer roster: it may shut one of us out."""
        return subject == self._mesh.id or not self.behind

    @property
    def behind(self) -> bool:
        """Do others hold a newer roster than this node?"""
        return self._mesh.behind

    def may_act(self, node: bytes) -> bool:
        """Does the mesh let this node act for others?"""
        if node in self._mesh.forgers or self._mesh.cloned:
            return False
        if node == self._mesh.id:
            return True
        member = self._mesh.members.get(node)
        roles = member.certificate.roles if member is not None else ()
        return member is not None and member.present and "actor" in roles and "witness" not in roles and self.may_help(node)

    def holder_for(self, helper: bytes) -> bytes:
        """Who carries out what ``helper`` offered: itself, or we, where it failed since. Who left, or was revoked, offers nothing."""
        member = self._mesh.members.get(helper)
        failed = member is not None and not member.present and member.state != "left" and "actor" in member.certificate.roles
        return self._mesh.id if failed else helper
