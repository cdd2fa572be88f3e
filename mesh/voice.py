"""How a node tells the mesh: a member directly, everyone at once, or by letting claims ride along (SWIM section 4.1)."""

from cloudisense.mesh.context import Context
from cloudisense.mesh.dissemination import Piggyback, retransmit_limit
from cloudisense.mesh.instant import Instant
from cloudisense.mesh.member import Member
from cloudisense.mesh.table import MemberTable
from cloudisense.mesh.wire import Claims, Message, SignedClaim

ACCUSATIONS = 3
"""Accusations against one member that are told to those who may not know them: one more than a death needs."""


class Voice(MemberTable):
    """A member table that can be spoken to."""

    def __init__(self, context: Context) -> None:
        super().__init__()
        self._context = context
        self._out = context.out
        self._limits = context.limits
        self._piggyback = Piggyback()

    def send(self, peer: bytes, message: Message) -> None:
        """Send to a known member; one that was cut off since has no session any more, and gets nothing."""
        if self._context.sessions.knows(peer) and not self.shut_out(peer):
            self._out.send(peer, self.members[peer].address, message)

    def tell_all(self, claim: SignedClaim, *besides: bytes, but: bytes = b"") -> None:
        """First-hand news goes out at once: to everyone in a small mesh, to a few in a large one; the piggyback does the rest.

        ``but`` knows it already.
        """
        present = self.present()
        told = present if len(present) <= self._limits.small else self._context.choose(present, 2 * self._limits.gossip_fanout)
        for node in sorted({*told, *besides} & self.members.keys() - {but}):
            self.send(node, Claims((claim,)))

    def gossip(self, now: Instant) -> None:
        """Between probes, spread what is new to a few members."""
        if not len(self._piggyback):
            return
        self._out.after("gossip", now, self._limits.gossip_interval_ms)
        for node in self._context.choose(self.present(), self._limits.gossip_fanout):
            if claims := self.ride_along():
                self.send(node, Claims(claims))

    def ride_along(self, beside: tuple[SignedClaim, ...] = ()) -> tuple[SignedClaim, ...]:
        """Claims for the next message, as many as fit ``beside`` others."""
        room = self._limits.datagram_bytes - 64 - sum(len(claim[0]) + 8 for claim in beside)
        return self._piggyback.take(room, retransmit_limit(self._limits, len(self.members) + 1))

    def accusations(self, member: Member) -> tuple[SignedClaim, ...]:
        """The accusations that count against it, as many as help a listener along."""
        return tuple((member.accusations[accuser], b"") for accuser in sorted(member.accusations)[:ACCUSATIONS])

    def spread(self, subject: bytes, author: bytes, claim: SignedClaim) -> None:
        """Let a claim ride along until it is assumed to be known."""
        self._piggyback.add(subject, author, claim)
        if "gossip" not in self._out.timers:
            self._out.wake_soon("gossip", self._limits.gossip_interval_ms)

    def shut_out(self, node: bytes) -> bool:
        """Is this node's key, or that of the issuer that certified it, revoked?"""
        roster = self._context.trust.roster
        member = self.members.get(node)
        return roster.is_revoked(node) or (member is not None and roster.is_revoked(member.certificate.issuer))
