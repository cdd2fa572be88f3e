"""A node's new key: certified on the word of the old one, without an invite and without an operator. The node's side and the issuer's.

The node, its agent stopped: makes the next key durable, has it certified, makes the certificate durable, exchanges the key files.
After a crash at any point the same command goes on: the issuer gives the same successor a certificate again.
The issuer: keeps durably that the key was replaced, tells the mesh, and answers. A key that was replaced replaces nothing any more.
"""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from cloudisense.clock import read_clock
from cloudisense.home import VALID_MS, Home, Membership, certify
from cloudisense.joining import Issuer
from cloudisense.keys.certificate import Certificate, check_certificate
from cloudisense.keys.encoding import pack, unpack
from cloudisense.keys.envelope import open_envelope, read_envelope, seal
from cloudisense.keys.errors import RemoteProtocolError
from cloudisense.keys.handover import open_handover, open_succession, seal_handover, seal_succession
from cloudisense.keys.identity import Identity
from cloudisense.keys.roster import Roster
from cloudisense.mesh.address import address_text
from cloudisense.mesh.effects import Address
from cloudisense.mesh.instant import Instant
from cloudisense.net.streams import send_renewal
from cloudisense.renewal import GRACE_MS, REPLY_BYTES, REQUEST_BYTES, check_issued, meet_issuer, roles_now
from cloudisense.store import Store

ROTATE = "rotate"
MAX_ROTATIONS = 4
"""Keys that one node may replace within the life of a certificate: each is remembered by everyone."""
MAX_ADDRESSES = 16


class RotateRequest(msgspec.Struct, frozen=True, array_like=True):
    """Signed by the new key: ``handover`` is the old one's word for it, ``certificate`` what the old one may be."""

    certificate: bytes
    handover: bytes


class RotateReply(msgspec.Struct, frozen=True, array_like=True):
    """As ``RenewReply``, for the new key; ``claim`` tells everyone that the old one is out."""

    certificate: bytes
    leaf: bytes
    chain: tuple[bytes, ...]
    claim: bytes


# -- the node ----------------------------------------------------------------------------------------------------------


async def rotate(home: Home) -> Membership:
    """Replace the key of the node in ``home``, whose lock the caller holds. ``ValueError``, one line, when it cannot be."""
    if home.finish_rotation():
        return home.load()
    member = home.load()
    if member.roster.issuer(member.identity.id) is not None:
        raise ValueError(
            "this node is an issuer, and its key stands in the roster: make another one an issuer (roster promote --issuer), "
            "revoke this one, and join anew"
        )
    key = home.next_key()
    problems: list[str] = []
    for address in _addresses(home, member):
        try:
            reply = await _ask(member, key, address)
        except ValueError as error:
            problems.append(str(error))
            continue
        home.keep_rotation(reply.certificate, reply.leaf, reply.chain, reply.claim)
        home.finish_rotation()
        return home.load()
    told = "; ".join(dict.fromkeys(problem for problem in problems if not problem.endswith("is no issuer")))
    raise ValueError(f"no issuer could be asked, and the old key stays: {told or 'none is known here'}")


async def _ask(member: Membership, key: Identity, address: Address) -> RotateReply:
    leaf = await meet_issuer(member, address)
    request = RotateRequest(member.certificate, seal_handover(member.identity, member.mesh_id, key.id))
    answer = await send_renewal(address, leaf, seal(key, ROTATE, member.mesh_id, pack(request)))
    try:
        reply = unpack(answer, RotateReply, REPLY_BYTES)
        check_issued(member, key.id, reply.certificate, reply.leaf, reply.chain)
        told = open_succession(reply.claim, member.mesh_id)
        if (told.node, told.successor) != (member.identity.id, key.id):
            raise RemoteProtocolError("it is about other keys")
    except RemoteProtocolError as error:
        raise ValueError(f"the issuer's answer at {address_text(address)} is not usable: {error.reason}") from None
    return reply


def _addresses(home: Home, member: Membership) -> list[Address]:
    """Issuers that we know, then whatever else may be one."""
    from cloudisense.mesh.member import Alive

    store = Store.open_readonly(home.database)
    try:
        rows = store.rows("members", order_by=("node",))
    finally:
        store.close()
    rows.sort(key=lambda row: member.roster.issuer(bytes(row["node"])) is None)
    known = [unpack(read_envelope(bytes(row["claim"])).body, Alive) for row in rows]
    return list(dict.fromkeys((*((alive.host, alive.port) for alive in known), *member.seeds)))[:MAX_ADDRESSES]


# -- the issuer --------------------------------------------------------------------------------------------------------


async def answer(issuer: Issuer, signed: Roster, replaced: dict[bytes, bytes], others: Sequence[bytes], body: bytes,
                 tell: Callable[[bytes], Any]) -> bytes:  # fmt: skip
    """The issuer's answer to one request. ``RemoteProtocolError`` with the reason for the node.

    ``signed`` is the roster without what holds for some time only, ``replaced`` what the mesh knows of that, ``others`` the members.
    ``tell`` gives the claim to the mesh; it is called once our own word is durable.
    """
    member, now = issuer.member, read_clock()
    envelope = open_envelope(body, member.mesh_id, ROTATE, REQUEST_BYTES)
    request = unpack(envelope.body, RotateRequest, REQUEST_BYTES)
    handover = open_handover(request.handover, member.mesh_id)
    if handover.successor != envelope.signer:
        raise RemoteProtocolError("the old key names another successor")
    if member.roster.issuer(member.identity.id) is None:
        raise RemoteProtocolError("this node may not issue certificates")
    if not now.wall_trusted:
        raise RemoteProtocolError("the issuer's clock is not set")
    own_word = issuer.succession(handover.node)
    if own_word and open_succession(own_word, member.mesh_id).successor == envelope.signer:
        claim = own_word  # it asks again: our answer was lost
        before = msgspec.structs.replace(signed, revoked=tuple(key for key in signed.revoked if key != handover.node))
        old = check_certificate(request.certificate, before, member.mesh_id, now.wall_ms, wall_trusted=False)
        if old.node != handover.node or issuer.holder(old.name) != envelope.signer or member.roster.is_revoked(envelope.signer):
            raise RemoteProtocolError("this key has been replaced already")
    else:
        old = _checked(issuer, replaced, others, request.certificate, handover.node, envelope.signer, now)
        claim = seal_succession(member.identity, member.mesh_id, request.handover, now.wall_ms)
        times_ms = [at for at in issuer.rotations(old.name) if at > now.wall_ms - VALID_MS]
        if len(times_ms) >= MAX_ROTATIONS:
            raise RemoteProtocolError(f"this node has replaced its key {len(times_ms)} times in 90 days; ask an operator")
        await issuer.pass_on(old.name, handover.node, envelope.signer, claim, [*times_ms, now.wall_ms])
    tell(claim)
    roles = roles_now(old, member)
    certificate, leaf = certify(member.identity, signed, member.mesh_id, envelope.signer, old.name, roles, old.labels, now)
    return pack(RotateReply(certificate, leaf, member.chain, claim))


def _checked(
    issuer: Issuer, replaced: dict[bytes, bytes], others: Sequence[bytes], certificate: bytes, node: bytes, successor: bytes, now: Instant
) -> Certificate:
    """The old key's certificate, if it may still hand over to ``successor``."""
    member, roster = issuer.member, issuer.member.roster
    if node in replaced or issuer.succession(node):
        raise RemoteProtocolError("this key has been replaced already")
    old = check_certificate(certificate, roster, member.mesh_id, now.wall_ms, wall_trusted=False)
    if old.node != node:
        raise RemoteProtocolError("the certificate is of another key")
    if now.wall_ms >= old.not_after_ms + GRACE_MS:
        raise RemoteProtocolError("the certificate ran out more than 30 days ago; join anew with an invite")
    if roster.issuer(node) is not None or node in roster.roots:
        raise RemoteProtocolError("the key of an issuer stands in the roster, and only the root changes that")
    if issuer.holder(old.name) not in (None, node):
        raise RemoteProtocolError(f"the name {old.name!r} belongs to another key by now")
    listed = {*roster.roots, *roster.voters, *roster.operators, *roster.revoked, *(entry.key for entry in roster.issuers)}
    if successor in listed or successor in others or successor in replaced or successor == member.identity.id:
        raise RemoteProtocolError("the new key is somebody's already")
    return old
