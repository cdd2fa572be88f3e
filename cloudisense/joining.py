"""Joining a mesh with an invite: the joiner's side and the issuer's.

The joiner checks the roster chain down to the mesh id of its token, and that the TLS key it talks to is the issuer's that the
token names, before the secret leaves its host (DESIGN section 3.1).
"""

import asyncio
import random
import re
import socket

import msgspec

from cloudisense.clock import read_clock
from cloudisense.home import Home, Membership, certify, mesh_text
from cloudisense.keys.certificate import check_certificate
from cloudisense.keys.encoding import pack, unpack
from cloudisense.keys.envelope import open_envelope, seal
from cloudisense.keys.errors import Refused, RemoteProtocolError
from cloudisense.keys.identity import Identity
from cloudisense.keys.invite import Token, parse_token
from cloudisense.keys.roster import check_chain
from cloudisense.keys.tls import node_of
from cloudisense.mesh.effects import Address, Put
from cloudisense.mesh.instant import Instant
from cloudisense.mesh.member import Member
from cloudisense.net.streams import Busy, fetch_roster, send_join
from cloudisense.store import Store

REQUEST_BYTES = 8192
REPLY_BYTES = 1 << 20
MAX_SEEDS = 16
NAME_KEY = "name/"
SUCCESSOR_KEY = "successor/"
ROTATIONS_KEY = "rotations/"
BUSY_ATTEMPTS = 5


class JoinRequest(msgspec.Struct, frozen=True, array_like=True):
    """Signed by the joiner's own key, so that nobody can have another's key certified."""

    secret: bytes
    name: str
    labels: tuple[tuple[str, str], ...]


class JoinReply(msgspec.Struct, frozen=True, array_like=True):
    """Everything that a member needs; ``seeds`` are addresses of members, the issuer's first."""

    certificate: bytes
    leaf: bytes
    chain: tuple[bytes, ...]
    seeds: tuple[tuple[str, int], ...]


def default_name() -> str:
    """This host's name as a node's name."""
    name = re.sub(r"[^a-z0-9-]+", "-", socket.gethostname().split(".")[0].lower()).strip("-")
    return name[:63] or "node"


async def join(home: Home, text: str, name: str, labels: tuple[tuple[str, str], ...], config_text: str) -> Membership:
    """Become a member with the invite ``text``. ``ValueError``, one line, and nothing kept, when it cannot be."""
    token = parse_token(text)
    home.check_vacant()
    if token.expired(read_clock().wall_ms):
        raise ValueError("this invite has expired; ask for a new one (cloudisense invite)")
    problems: list[str] = []
    for address in token.addresses:
        try:
            reply, identity = await _ask_patiently(token, address, name, labels)
        except _Unreachable as error:
            problems.append(str(error))
            continue
        return home.enrol(identity, reply.certificate, reply.leaf, reply.chain, reply.seeds, config_text)
    raise ValueError("; ".join(problems))


class _Unreachable(Exception):
    """This address led nowhere; the next one may."""


async def _ask_patiently(token: Token, address: Address, name: str, labels: tuple[tuple[str, str], ...]) -> tuple[JoinReply, Identity]:
    """A fleet that joins at once meets a busy issuer: come back a little later, each at its own time."""
    for attempt in range(BUSY_ATTEMPTS):
        try:
            return await _ask(token, address, name, labels)
        except Busy as error:
            if attempt == BUSY_ATTEMPTS - 1:
                raise _Unreachable(str(error)) from None
            await asyncio.sleep(random.uniform(0.2, 1.0) * (attempt + 1))
    raise AssertionError("unreachable")


async def _ask(token: Token, address: Address, name: str, labels: tuple[tuple[str, str], ...]) -> tuple[JoinReply, Identity]:
    try:
        server, leaf, chain = await fetch_roster(address)
    except Busy:
        raise
    except ValueError as error:
        raise _Unreachable(str(error)) from None
    try:
        roster = check_chain(chain, token.mesh_id)
    except RemoteProtocolError as error:
        raise _Unreachable(f"the agent at {address[0]}:{address[1]} is of another mesh ({error.reason}); the secret was not sent") from None
    if server != token.issuer or roster.issuer(server) is None or roster.is_revoked(server):
        raise _Unreachable(f"the agent at {address[0]}:{address[1]} is not the issuer of this invite; the secret was not sent")
    identity = Identity.generate(random.SystemRandom())
    body = seal(identity, "join", token.mesh_id, pack(JoinRequest(token.secret, name, labels)))
    answer = await send_join(address, leaf, body)
    try:
        reply = unpack(answer, JoinReply, REPLY_BYTES)
        newest = check_chain(reply.chain, token.mesh_id)
        now = read_clock()
        certificate = check_certificate(reply.certificate, newest, token.mesh_id, now.wall_ms, now.wall_trusted)
        if certificate.node != identity.id or node_of(reply.leaf) != identity.id:
            raise RemoteProtocolError("the certificate is for another key")
    except RemoteProtocolError as error:
        raise ValueError(f"the issuer's answer is not usable: {error.reason}") from None
    return reply, identity


class Issuer:
    """Answers join requests at a node that the roster names as issuer. ``member`` is kept up to date by whoever made this."""

    def __init__(self, member: Membership, store: Store, address: Address) -> None:
        self.member = member
        self._store = store
        self._address = address
        # Durable, and from the moment of the request: who was let in and has not come up yet has its name all the same.
        given = [row for row in store.rows("meta") if row["key"].startswith(NAME_KEY)]
        self._names = {row["key"].removeprefix(NAME_KEY): bytes(row["value"]) for row in given}

    async def answer(self, body: bytes, members: list[Member]) -> bytes:
        """The reply to one join request. ``RemoteProtocolError`` with the reason for the joiner."""
        member = self.member
        envelope = open_envelope(body, member.mesh_id, "join", REQUEST_BYTES)
        request = unpack(envelope.body, JoinRequest, REQUEST_BYTES)
        taken = {m.alive.name for m in members if m.node != envelope.signer} | {member.name}
        if request.name in taken or self._names.get(request.name, envelope.signer) != envelope.signer:
            raise RemoteProtocolError(f"the name {request.name!r} is taken in this mesh; choose another --name")
        if member.roster.issuer(member.identity.id) is None:
            raise RemoteProtocolError("this node may not issue certificates")
        now = read_clock()
        if not now.wall_trusted:
            raise RemoteProtocolError("the issuer's clock is not set")
        try:  # before the invite is spent: a bad name must not cost it
            certify(member.identity, member.roster, member.mesh_id, envelope.signer, request.name, ("member",), request.labels, now)
        except ValueError as error:
            raise RemoteProtocolError(str(error)) from None
        self._names[request.name] = envelope.signer
        try:
            roles = await asyncio.to_thread(self._spend, request, envelope.signer, now)
        except BaseException:
            del self._names[request.name]
            raise
        certificate, leaf = certify(
            member.identity, member.roster, member.mesh_id, envelope.signer, request.name, roles, request.labels, now
        )
        seeds = (self._address, *(m.address for m in members if m.present))[:MAX_SEEDS]
        return pack(JoinReply(certificate, leaf, member.chain, seeds))

    def holder(self, name: str) -> bytes | None:
        """The key to which this issuer gave ``name``, as far as it did."""
        return self._names.get(name)

    def succession(self, node: bytes) -> bytes:
        """What this issuer said when it certified the successor of ``node``; empty when it did not."""
        return self._store.get_meta(SUCCESSOR_KEY + node.hex()) or b""

    def rotations(self, name: str) -> list[int]:
        """When the node ``name`` replaced its key here, Unix milliseconds."""
        return unpack(self._store.get_meta(ROTATIONS_KEY + name) or pack([]), list[int])

    async def pass_on(self, name: str, node: bytes, successor: bytes, claim: bytes, times_ms: list[int]) -> None:
        """The name belongs to ``successor`` now, at once; and durably, with our word about it, on return."""
        before = self._names.get(name)
        self._names[name] = successor
        rows = {NAME_KEY + name: successor, SUCCESSOR_KEY + node.hex(): claim, ROTATIONS_KEY + name: pack(times_ms)}
        try:
            await asyncio.to_thread(self._store.write, [Put("meta", {"key": key, "value": value}) for key, value in rows.items()])
        except BaseException:
            self._names.pop(name)
            self._names |= {name: before} if before is not None else {}
            raise

    def _spend(self, request: JoinRequest, node: bytes, now: Instant) -> tuple[str, ...]:
        roles = self._store.spend_invite(request.secret, now.wall_ms)
        if isinstance(roles, Refused):
            raise RemoteProtocolError(roles.reason)
        self._store.write([Put("meta", {"key": NAME_KEY + request.name, "value": node})])
        return roles


def describe(member: Membership) -> str:
    """One line for the person who founded or joined."""
    return f"node {member.name} of mesh {mesh_text(member.mesh_id)[:12]}..."
