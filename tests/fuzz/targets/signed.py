"""What is signed: envelope, certificate, roster, capability, invite. The first byte chooses; the bodies are truly signed,
so that a fuzzer gets behind the signature.
"""

import contextlib
from collections.abc import Callable

from cloudisense.keys.capability import Capability, check_capability
from cloudisense.keys.certificate import CERTIFICATE_TYPE, Certificate, check_certificate
from cloudisense.keys.encoding import pack
from cloudisense.keys.envelope import open_envelope, read_envelope, seal
from cloudisense.keys.errors import RemoteProtocolError
from cloudisense.keys.invite import make_invite, parse_token
from cloudisense.keys.roster import check_chain, newer, read_roster
from cloudisense.keys.testing import NOT_AFTER_MS, NOT_BEFORE_MS, WALL_MS, HashRng, issue_for_tests

KEYS = issue_for_tests(1)
WAYS = 7


def seeds() -> list[bytes]:
    """One of each."""
    certificate = Certificate(KEYS.valid.identity.id, "n", ("member",), (("a", "b"),), NOT_BEFORE_MS, NOT_AFTER_MS, KEYS.issuer.id)
    node = KEYS.valid.identity.id
    capability = Capability(bytes(16), "i", bytes(32), node, node, bytes(16), 1, 0, 1000)
    text, _ = make_invite(HashRng("x"), KEYS.mesh_id, node, (("10.0.0.1", 1),), ("member",), 1, WALL_MS)
    values = (KEYS.valid.certificate, KEYS.valid.certificate, pack(certificate), KEYS.chain[1], pack(KEYS.roster), pack(capability))
    return [*(bytes([i]) + value for i, value in enumerate(values)), b"\x06" + text.encode()]


def make() -> Callable[[bytes], None]:
    """The thing to feed."""

    def envelope(data: bytes) -> None:
        assert pack(read_envelope(data)) == data, "one statement has one form"
        open_envelope(data, KEYS.mesh_id)

    def certificate(data: bytes) -> None:
        assert data == KEYS.valid.certificate or not check_certificate(data, KEYS.roster, KEYS.mesh_id, WALL_MS, True)

    def signed_certificate(data: bytes) -> None:
        check_certificate(seal(KEYS.issuer, CERTIFICATE_TYPE, KEYS.mesh_id, data), KEYS.roster, KEYS.mesh_id, WALL_MS, True)

    def roster(data: bytes) -> None:
        read_roster(data)
        newer(KEYS.roster, data, KEYS.mesh_id)
        check_chain((*KEYS.chain, data), KEYS.mesh_id)

    def signed_roster(data: bytes) -> None:
        signature = KEYS.root.sign("roster", KEYS.mesh_id, data)
        check_chain((*KEYS.chain, pack([data, [[KEYS.root.id, signature]]])), KEYS.mesh_id)

    def invite(data: bytes) -> None:
        with contextlib.suppress(ValueError):
            parse_token(data.decode("utf-8", "replace"))

    ways = (envelope, certificate, signed_certificate, roster, signed_roster, check_capability, invite)
    assert len(ways) == WAYS

    def one(data: bytes) -> None:
        if data:
            with contextlib.suppress(RemoteProtocolError):
                ways[data[0] % WAYS](data[1:])

    return one
