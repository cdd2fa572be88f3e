"""This node's standing while its agent runs: the roster that holds, the certificate, the voters that it may make.

The core decides who is trusted; here sockets, issuer and state folder are kept in step with it, and what takes a clock and a network
(renewal) or the root key (voters) is done.
"""

import asyncio
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from cloudisense.agent.node import Node
from cloudisense.clock import read_clock
from cloudisense.home import CHAIN_BYTES, OFFERED, PROMOTED, Home, Membership
from cloudisense.joining import Issuer
from cloudisense.keys.encoding import pack, unpack
from cloudisense.keys.envelope import read_envelope
from cloudisense.keys.errors import RemoteProtocolError
from cloudisense.keys.identity import node_text
from cloudisense.keys.roster import Roster, read_roster, sign_roster
from cloudisense.keys.succession import settling, with_voters
from cloudisense.keys.tls import private_pem
from cloudisense.mesh.effects import Address
from cloudisense.mesh.instant import Instant
from cloudisense.mesh.voters import next_voters, tolerates
from cloudisense.net.streams import StreamClient, StreamServer, TlsOwn
from cloudisense.renewal import REQUEST_BYTES, RenewReply, ask, days_left, due, renew, renew_own
from cloudisense.rotation import ROTATE, answer
from cloudisense.store import Store

TICK_S = 1.0
RENEW_RETRY_S = 600
RENEW_SPREAD_S = 30
"""A node waits up to so long before it asks, so that a fleet that was made in one minute does not renew in one second."""
MAX_ADDRESSES = 16
DURABLE_TRIES = 150
DURABLE_WAIT_S = 0.02
BEHIND = "others hold a newer roster than this node can prove: until it has that, it helps nobody and takes nobody's help"
SETTLE_AT = 8
"""Replaced keys that cost nobody a vote are left to their claims until there are so many: each roster lengthens the chain for ever."""

Do = Callable[[Callable[[Instant], None]], None]


class Standing:
    """``do`` lets the core take something in and carries out what it decides."""

    def __init__(self, home: Home, member: Membership, store: Store, voters: int, do: Do) -> None:
        self.member = member
        self._home, self._store, self._most, self._do = home, store, voters, do
        self._seen = -1
        self._renew_at_s = 0.0
        self._no_root_for: tuple[object, ...] = ()

    def bind(self, node: Node, issuer: Issuer, server: StreamServer, client: StreamClient) -> None:
        """Whom to keep in step."""
        self._node, self._issuer, self._server, self._client = node, issuer, server, client

    def sync(self) -> None:
        """The core may have another roster now: so get sockets and issuer. Cheap when it has not."""
        mesh = self._node.mesh
        if mesh.trust_version == self._seen:
            return
        self._seen = mesh.trust_version
        self._become(replace(self.member, chain=mesh.roster_chain, roster=mesh.roster))

    def status(self) -> dict[str, Any]:
        """What stands in ``cloudisense status``."""
        member = self.member
        return {
            "roster": member.roster.number,
            "epoch": member.roster.epoch,
            "voters": [node_text(voter) for voter in member.roster.voters],
            "tolerates": tolerates(len(member.roster.voters)),
            "certificate_days": days_left(member.certificate, read_clock().wall_ms),
            "attention": [
                *attention(self._home, member.roster, self._node.mesh.replaced, self._node.mesh.rival_rosters),
                *([BEHIND] if self._node.mesh.behind else []),
            ],
        }

    async def renewal(self, body: bytes) -> bytes:
        """Answer a member that wants a new certificate, for its key or for the one that replaces it."""
        if read_envelope(body, REQUEST_BYTES).type != ROTATE:
            return renew(self.member, body)
        mesh = self._node.mesh
        return await answer(self._issuer, read_roster(mesh.roster_chain[-1]), dict(mesh.replaced), list(mesh.members), body, self.revoke)

    async def upkeep(self) -> None:
        """Until it is cancelled: renew our certificate when it is due, make voters where the root key lies."""
        loop = asyncio.get_running_loop()
        while True:
            await self._promote()
            if loop.time() >= self._renew_at_s and due(self.member, read_clock().wall_ms) and read_clock().wall_trusted:
                await self._renew()
            await asyncio.sleep(TICK_S)

    # -- rosters -------------------------------------------------------------------------------------------------------

    async def take_offered(self) -> dict[str, Any]:
        """A command left a roster chain for us: take it, and answer once it is durable."""
        chain = tuple(unpack(await asyncio.to_thread(self._store.get_meta, OFFERED) or pack([]), list[bytes], CHAIN_BYTES))
        problem = self._take(chain) if chain else "nothing was offered"
        if problem:
            return {"error": problem}
        return {"roster": self._node.mesh.roster.number, "durable": await self._durable(len(chain))}

    def _take(self, chain: tuple[bytes, ...]) -> str:
        """Why the core would not have ``chain``; empty when it has it."""
        problems: list[str] = []

        def take(now: Instant) -> None:
            try:
                if not self._node.mesh.take_rosters(chain, now):
                    problems.append("it is not newer than what holds")
            except RemoteProtocolError as error:
                problems.append(error.reason)

        self._do(lambda now: self._node.command(lambda: take(now), now))
        return problems[0] if problems else ""

    async def _durable(self, length: int) -> bool:
        for _ in range(DURABLE_TRIES):
            stored = await asyncio.to_thread(self._store.get_meta, "roster") or pack([])
            if len(unpack(stored, list[bytes], CHAIN_BYTES)) >= length:
                return True
            await asyncio.sleep(DURABLE_WAIT_S)
        return False

    def revoke(self, claim: bytes) -> dict[str, Any]:
        """An operator's quick revocation."""
        problems: list[str] = []

        def take(now: Instant) -> None:
            try:
                if not self._node.mesh.revoke(claim, now):
                    problems.append("it is revoked already")
            except RemoteProtocolError as error:
                problems.append(error.reason)

        self._do(lambda now: self._node.command(lambda: take(now), now))
        return {"error": problems[0]} if problems else {"revoked": True}

    # -- voters --------------------------------------------------------------------------------------------------------

    async def _promote(self) -> None:
        """Where the root key lies, and only at the mesh's first issuer: two that sign the same number would split the mesh for good."""
        mesh, member = self._node.mesh, self.member
        signed = read_roster(mesh.roster_chain[-1])
        nodes = 1 + sum(other.state != "left" for other in mesh.members.values())
        if (
            mesh.rival_rosters
            or signed.issuers[0].key != member.identity.id
            or signed.threshold != 1
            or self._no_root_for == (nodes, mesh.replaced)
        ):
            return
        roster = self._settled(signed) or self._with_more_voters(signed, nodes)
        if roster is None:
            return
        keys = await asyncio.to_thread(self._home.roots, signed)
        if not keys:
            self._no_root_for = (nodes, mesh.replaced)
            return
        chain = (*mesh.roster_chain, sign_roster(roster, member.mesh_id, next(iter(keys.values()))))
        # Durable before anybody hears of it: after a crash this node must not sign another roster of this number.
        await asyncio.to_thread(self._store.put_meta, PROMOTED, pack(list(chain)))
        self._take(chain)

    def _settled(self, signed: Roster) -> Roster | None:
        """The next roster, if a voter has replaced its key, or enough others have."""
        replaced = self._node.mesh.replaced
        if len(replaced) < SETTLE_AT and not any(node in signed.voters for node, _ in replaced):
            return None
        try:
            return settling(signed, replaced, [m.node for m in self._node.mesh.members.values() if m.state == "alive"])
        except ValueError:
            return None  # the successor has not come up yet

    def _with_more_voters(self, signed: Roster, nodes: int) -> Roster | None:
        voters = next_voters(self._node.mesh.roster, nodes, self._candidates(), self._most)
        return with_voters(signed, voters) if voters is not None else None

    def _candidates(self) -> list[bytes]:
        members = [m for m in self._node.mesh.members.values() if m.state == "alive" and {"member", "voter"} & set(m.certificate.roles)]
        return [m.node for m in sorted(members, key=lambda m: ("voter" not in m.certificate.roles, m.node))]

    # -- our certificate -----------------------------------------------------------------------------------------------

    async def _renew(self) -> None:
        self._renew_at_s = asyncio.get_running_loop().time() + RENEW_RETRY_S
        member = self.member
        if member.roster.issuer(member.identity.id) is not None:
            self._renewed(renew_own(member))
            return
        await asyncio.sleep(random.SystemRandom().uniform(0, min(RENEW_SPREAD_S, len(self._node.mesh.members))))
        for address in self._addresses(member.roster):
            try:
                reply = await ask(self.member, address)
            except ValueError:
                continue
            self._take(reply.chain)
            self._renewed(reply)
            return

    def _addresses(self, roster: Roster) -> list[Address]:
        """Issuers that we know, then whatever else may be one."""
        members = sorted(self._node.mesh.members.values(), key=lambda m: (roster.issuer(m.node) is None, m.node))
        return list(dict.fromkeys((*(m.address for m in members), *self.member.seeds)))[:MAX_ADDRESSES]

    def _renewed(self, reply: RenewReply) -> None:
        self._do(lambda now: self._node.command(lambda: self._node.mesh.renewed(reply.certificate, reply.leaf), now))
        self._become(replace(self.member, certificate=reply.certificate, leaf=reply.leaf))

    def _become(self, member: Membership) -> None:
        self.member = self._issuer.member = member
        anchors = [issuer.anchor for issuer in member.roster.issuers]
        own = TlsOwn(member.leaf, private_pem(member.identity))
        self._server.update_anchors(anchors, own)
        self._client.update_anchors(anchors, own)


def offline_status(home: Home) -> dict[str, Any]:
    """What the state folder alone says of the node's standing."""
    member = home.load()
    return {
        "roster": member.roster.number,
        "tolerates": tolerates(len(member.roster.voters)),
        "certificate_days": days_left(member.certificate, read_clock().wall_ms),
        "attention": attention(home, member.roster, home.replaced(member), bool(home.rival())),
    }


def attention(home: Home, roster: Roster, replaced: tuple[tuple[bytes, bytes], ...], rival: bool) -> list[str]:
    """What somebody has to do about this node's standing, a line each."""
    lines: list[str] = []
    if rival:
        lines.append(
            "the root signed two rosters beside each other, and none changes any more: choose one (cloudisense roster show on both sides), "
            "and on a node that has it, with the root key at hand, run cloudisense roster uphold"
        )
    if home.rotating:
        lines.append("the replacement of this node's key did not end: stop the agent and run cloudisense rotate-key again")
    if any(node in roster.voters for node, _ in replaced):
        lines.append("a voter replaced its key, and its vote waits: where the root key is at hand, run cloudisense roster settle")
    return lines
