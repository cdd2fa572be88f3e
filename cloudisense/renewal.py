"""Certificates that renew themselves: the node's side and the issuer's.

The request is signed by the node's own key and not carried by its TLS certificate, because one that has run out could not be shown:
a host that was off for a quarter renews within 30 days of grace. The issuer is known by its key, which the roster names.
"""

import msgspec

from cloudisense.clock import read_clock
from cloudisense.home import Membership, certify
from cloudisense.keys.certificate import MAX_CERTIFICATE_BYTES, Certificate, check_certificate
from cloudisense.keys.encoding import pack, unpack
from cloudisense.keys.envelope import open_envelope, read_envelope, seal
from cloudisense.keys.errors import RemoteProtocolError
from cloudisense.keys.roster import check_chain
from cloudisense.keys.tls import node_of
from cloudisense.mesh.address import address_text
from cloudisense.mesh.effects import Address
from cloudisense.net.streams import fetch_roster, send_renewal

REQUEST_BYTES = 8192
REPLY_BYTES = 1 << 20
GRACE_MS = 30 * 86_400_000
DAY_MS = 86_400_000


class RenewReply(msgspec.Struct, frozen=True, array_like=True):
    """The new certificate and leaf, and the issuer's roster chain, which may be newer than the node's."""

    certificate: bytes
    leaf: bytes
    chain: tuple[bytes, ...]


def content(certificate: bytes) -> Certificate:
    """What our own certificate says, its signature not checked again."""
    return unpack(read_envelope(certificate, MAX_CERTIFICATE_BYTES).body, Certificate, MAX_CERTIFICATE_BYTES)


def days_left(certificate: bytes, wall_ms: int) -> int:
    """Whole days until it runs out; below 0 when it has."""
    return (content(certificate).not_after_ms - wall_ms) // DAY_MS


def due(member: Membership, wall_ms: int) -> bool:
    """Is it past half of its validity, or is the mesh's word about this node another than the certificate's?"""
    own = content(member.certificate)
    return wall_ms >= (own.not_before_ms + own.not_after_ms) // 2 or own.roles != roles_now(own, member)


def roles_now(certificate: Certificate, member: Membership) -> tuple[str, ...]:
    """The same roles, and ``voter`` or ``issuer`` where the roster made it one since."""
    listed = (("voter", certificate.node in member.roster.voters), ("issuer", member.roster.issuer(certificate.node) is not None))
    return (*certificate.roles, *(role for role, holds in listed if holds and role not in certificate.roles))


def renew(member: Membership, body: bytes) -> bytes:
    """The issuer's answer to one request. ``RemoteProtocolError`` with the reason for the node."""
    envelope = open_envelope(body, member.mesh_id, "renew", REQUEST_BYTES)
    now = read_clock()
    if member.roster.issuer(member.identity.id) is None:
        raise RemoteProtocolError("this node may not issue certificates")
    if not now.wall_trusted:
        raise RemoteProtocolError("the issuer's clock is not set")
    old = check_certificate(envelope.body, member.roster, member.mesh_id, now.wall_ms, wall_trusted=False)
    if old.node != envelope.signer:
        raise RemoteProtocolError("the certificate is of another key")
    if now.wall_ms >= old.not_after_ms + GRACE_MS:
        raise RemoteProtocolError("the certificate ran out more than 30 days ago; join anew with an invite")
    roles = roles_now(old, member)
    certificate, leaf = certify(member.identity, member.roster, member.mesh_id, old.node, old.name, roles, old.labels, now)
    return pack(RenewReply(certificate, leaf, member.chain))


def renew_own(member: Membership) -> RenewReply:
    """What an issuer gives to itself."""
    return unpack(renew(member, _request(member)), RenewReply, REPLY_BYTES)


async def ask(member: Membership, address: Address) -> RenewReply:
    """A new certificate from the issuer at ``address``, checked. ``ValueError``, one line, when there is none to be had there."""
    leaf = await meet_issuer(member, address)
    answer = await send_renewal(address, leaf, _request(member))
    try:
        reply = unpack(answer, RenewReply, REPLY_BYTES)
        check_issued(member, member.identity.id, reply.certificate, reply.leaf, reply.chain)
    except RemoteProtocolError as error:
        raise ValueError(f"the issuer's answer at {address_text(address)} is not usable: {error.reason}") from None
    return reply


async def meet_issuer(member: Membership, address: Address) -> bytes:
    """The TLS leaf that an issuer of our mesh shows at ``address``. ``ValueError`` when whoever is there is none."""
    server, leaf, chain = await fetch_roster(address)
    try:
        roster = check_chain(chain, member.mesh_id)
    except RemoteProtocolError as error:
        raise ValueError(f"the issuer's answer at {address_text(address)} is not usable: {error.reason}") from None
    newest = roster if roster.number > member.roster.number else member.roster
    if newest.issuer(server) is None or newest.is_revoked(server) or member.roster.is_revoked(server):
        raise ValueError(f"{address_text(address)} is no issuer")
    return leaf


def check_issued(member: Membership, node: bytes, certificate: bytes, leaf: bytes, chain: tuple[bytes, ...]) -> None:
    """What an issuer gave must be for the key ``node`` under our name, and hold. Raises ``RemoteProtocolError``."""
    now = read_clock()
    given = check_certificate(certificate, check_chain(chain, member.mesh_id), member.mesh_id, now.wall_ms, now.wall_trusted)
    if (given.node, given.name) != (node, member.name) or node_of(leaf) != node:
        raise RemoteProtocolError("the certificate is for another node")


def _request(member: Membership) -> bytes:
    return seal(member.identity, "renew", member.mesh_id, member.certificate)
