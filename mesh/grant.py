"""A voter's signed grant, a quorum of them as a certificate, and the proof that a voter granted one round twice."""

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from cloudisense.keys.encoding import pack, unpack
from cloudisense.keys.errors import RemoteProtocolError
from cloudisense.keys.roster import LEASE_MS, MAX_VOTERS
from cloudisense.mesh.epoch import Epochs
from cloudisense.mesh.lease_messages import MAX_SIGNED_BYTES, NONCE_BYTES
from cloudisense.mesh.signatures import Signatures
from cloudisense.mesh.token import Token, check_key, check_token

GRANT = "lease_grant"
MAX_CERTIFICATE_BYTES = MAX_VOTERS * (MAX_SIGNED_BYTES + 4) + 8
WATCHED = 4096


class Grant(msgspec.Struct, frozen=True, array_like=True):
    """``key`` is ``token``'s for ``lease_ms`` on the signer's clock, from when it had the request that bore ``nonce``."""

    key: str
    token: Token
    lease_ms: int
    nonce: bytes

    def __post_init__(self) -> None:
        check_key(self.key)
        check_token(self.token)
        if self.lease_ms not in LEASE_MS or len(self.nonce) != NONCE_BYTES:
            raise ValueError("grant: a field is out of bounds")


def sign_grant(signatures: Signatures, grant: Grant) -> bytes:
    """The voter's statement."""
    return signatures.sign(GRANT, pack(grant))


def open_grant(signatures: Signatures, data: bytes) -> tuple[bytes, Grant]:
    """Who granted, and what. Raises ``RemoteProtocolError``."""
    signer, body = signatures.open(data, GRANT, MAX_SIGNED_BYTES)
    return signer, unpack(body, Grant, MAX_SIGNED_BYTES)


def certificate_of(grants: dict[bytes, bytes]) -> bytes:
    """The certificate made of the grants of these signers."""
    return pack(tuple(grants[signer] for signer in sorted(grants)))


def open_certificate(signatures: Signatures, data: bytes) -> dict[bytes, Grant]:
    """The grants in a certificate by signer, each verified; whether they are enough is another question."""
    grants = unpack(data, tuple[bytes, ...], MAX_CERTIFICATE_BYTES)
    if len(grants) > MAX_VOTERS:
        raise RemoteProtocolError("lease certificate too long")
    return dict(open_grant(signatures, grant) for grant in grants)


def check_certificate(signatures: Signatures, epochs: Epochs, data: bytes, revoked: Callable[[bytes], bool]) -> Grant:
    """What a quorum of its epoch's voters granted for one request. Anybody who has the rosters can check it.

    It proves that the holder held, not that it still does: that is for the fence, and for the holder's own clock.
    Raises ``RemoteProtocolError``.
    """
    grants = open_certificate(signatures, data)
    first = next(iter(grants.values()), None)
    if first is None or any(grant != first for grant in grants.values()):
        raise RemoteProtocolError("lease certificate of different grants")
    epoch = epochs.get(first.token.epoch)
    if epoch is None:
        raise RemoteProtocolError("lease certificate of an unknown epoch")
    valid = [signer for signer in grants if signer in epoch.voters and not revoked(signer)]
    if len(valid) < epoch.quorum or first.lease_ms != epoch.lease_ms or revoked(first.token.holder):
        raise RemoteProtocolError("lease certificate without a quorum")
    return first


@dataclass(frozen=True, slots=True)
class Equivocation:
    """Evidence that one voter granted one round of one key to two holders: its two signed grants. Anybody can check it.

    An honest voter never does: it promises a round once, durably. One restored from an old copy of its disk may, and is as unfit to vote.
    """

    first: bytes
    second: bytes

    def check(self, signatures: Signatures) -> bytes:
        """The voter that it convicts. Raises ``RemoteProtocolError`` when it proves nothing."""
        (voter, a), (other, b) = open_grant(signatures, self.first), open_grant(signatures, self.second)
        same = voter == other and a.key == b.key and a.token[:2] == b.token[:2]
        if not same or a.token.holder == b.token.holder:
            raise RemoteProtocolError("no evidence of two grants for one round")
        return voter


class Watch:
    """Looks at every certificate that passes, for voters that grant a round twice; remembers the newest ``WATCHED`` grants."""

    def __init__(self, signatures: Signatures) -> None:
        self._signatures = signatures
        self._seen: dict[tuple[bytes, str, int, int], tuple[bytes, bytes]] = {}

    def see(self, certificate: bytes) -> list[Equivocation]:
        """What this certificate proves beside those seen before, sorted by voter. Raises ``RemoteProtocolError`` for junk."""
        found: list[Equivocation] = []
        for data in unpack(certificate, tuple[bytes, ...], MAX_CERTIFICATE_BYTES)[:MAX_VOTERS]:
            signer, grant = open_grant(self._signatures, data)
            place = (signer, grant.key, *grant.token[:2])
            holder, before = self._seen.pop(place, (grant.token.holder, data))
            if holder != grant.token.holder:
                found.append(Equivocation(before, data))
            self._seen[place] = (holder, before)
            if len(self._seen) > WATCHED:
                del self._seen[next(iter(self._seen))]
        return found
