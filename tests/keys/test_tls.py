"""X.509: real TLS 1.3 handshakes in memory, with OpenSSL as the judge."""

import contextlib
import ssl

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from cloudisense.keys import tls
from cloudisense.keys.errors import LocalProtocolError, RemoteProtocolError
from cloudisense.keys.identity import Identity, node_text, parse_node_text
from cloudisense.keys.testing import NOT_AFTER_MS, NOT_BEFORE_MS, TestMember, issue_for_tests

MESH = issue_for_tests(1)
SERVER, CLIENT = MESH.valid, MESH.member("client")


def context(tmp_path, side: int, member: TestMember | None, anchor: bytes) -> ssl.SSLContext:
    made = ssl.SSLContext(side)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.verify_mode = ssl.CERT_REQUIRED
    made.verify_flags |= ssl.VERIFY_X509_STRICT
    made.load_verify_locations(cadata=tls.to_pem(anchor).decode())
    if member is not None:
        certificate, key = tmp_path / f"{side}.crt", tmp_path / f"{side}.key"
        certificate.write_bytes(tls.to_pem(member.leaf))
        key.write_bytes(tls.private_pem(member.identity))
        made.load_cert_chain(certificate, key)
    return made


def handshake(tmp_path, server=SERVER, client: TestMember | None = CLIENT, name=None, server_anchor=MESH.anchor, client_anchor=MESH.anchor):
    """Both ends after the handshake. ``*_anchor`` is what that end trusts."""
    ends, pipes = [], []
    for side, member, anchor in ((ssl.PROTOCOL_TLS_SERVER, server, server_anchor), (ssl.PROTOCOL_TLS_CLIENT, client, client_anchor)):
        into, out = ssl.MemoryBIO(), ssl.MemoryBIO()
        is_server = side == ssl.PROTOCOL_TLS_SERVER
        wanted = None if is_server else name or tls.host_name(SERVER.identity.id)
        ends.append(context(tmp_path, side, member, anchor).wrap_bio(into, out, server_side=is_server, server_hostname=wanted))
        pipes.append((into, out))
    # In TLS 1.3 the client is done before the server has judged it: its first read brings the verdict.
    for _ in range(4):
        for number in (1, 0):
            with contextlib.suppress(ssl.SSLWantReadError):
                ends[number].do_handshake()
            pipes[1 - number][0].write(pipes[number][1].read())
    return ends


def test_both_ends_know_each_other(tmp_path):
    server, client = handshake(tmp_path)
    assert client.version() == "TLSv1.3"
    assert tls.node_of(client.getpeercert(binary_form=True)) == SERVER.identity.id
    assert tls.node_of(server.getpeercert(binary_form=True)) == CLIENT.identity.id


def test_the_wrong_node_is_refused_by_name(tmp_path):
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        handshake(tmp_path, name=tls.host_name(CLIENT.identity.id))


def test_a_server_of_another_issuer_is_refused(tmp_path):
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(tmp_path, server=MESH.foreign, name=tls.host_name(MESH.foreign.identity.id))


def test_a_client_of_another_issuer_is_refused(tmp_path):
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(tmp_path, client=MESH.foreign)


def test_a_client_without_a_certificate_is_refused(tmp_path):
    with pytest.raises(ssl.SSLError, match=r"(?i)peer.did.not.return.a.certificate"):
        handshake(tmp_path, client=None)


def _member_signed_by(signer: Identity, anchor_der: bytes, identity: Identity) -> TestMember:
    der = tls.leaf(signer, anchor_der, identity.id, NOT_BEFORE_MS, NOT_AFTER_MS, 7)
    return TestMember(identity, b"", der, SERVER.session_key)


def test_a_leaf_cannot_issue(tmp_path):
    """A member with a valid leaf makes itself an anchor of the issuer's name and signs: the signature does not hold."""
    rogue = Identity(b"r" * 32)
    fake_anchor = x509.load_der_x509_certificate(tls.anchor(rogue, NOT_BEFORE_MS, NOT_AFTER_MS, 9))
    fake = _member_signed_by(rogue, fake_anchor.public_bytes(Encoding.DER), SERVER.identity)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(tmp_path, server=fake)


def test_an_expired_leaf_is_refused(tmp_path):
    der = tls.leaf(MESH.issuer, MESH.anchor, SERVER.identity.id, NOT_BEFORE_MS, NOT_BEFORE_MS + 1000, 7)
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        handshake(tmp_path, server=TestMember(SERVER.identity, b"", der, SERVER.session_key))


def test_the_leaf_says_what_the_design_says():
    leaf, ca = x509.load_der_x509_certificate(SERVER.leaf), x509.load_der_x509_certificate(MESH.anchor)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(x509.DNSName)
    assert names == [node_text(SERVER.identity.id) + ".mesh"]
    assert parse_node_text(names[0].removesuffix(tls.HOST_SUFFIX)) == SERVER.identity.id
    assert leaf.issuer == ca.subject
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    constraints = ca.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert (constraints.value.ca, constraints.value.path_length) == (True, 0)
    assert int(leaf.not_valid_before_utc.timestamp() * 1000) == NOT_BEFORE_MS
    assert int(leaf.not_valid_after_utc.timestamp() * 1000) == NOT_AFTER_MS
    ca.public_key().verify(leaf.signature, leaf.tbs_certificate_bytes)  # type: ignore[union-attr, call-arg]


def test_it_is_deterministic():
    assert tls.anchor(MESH.issuer, 0, 1000, 5) == tls.anchor(MESH.issuer, 0, 1999, 5)
    assert tls.anchor(MESH.issuer, 0, 1000, 5) != tls.anchor(MESH.issuer, 0, 1000, 6)


def test_node_of_an_anchor_is_its_issuer():
    assert tls.node_of(MESH.anchor) == MESH.issuer.id


def test_node_of_another_kind_of_key_is_refused():
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    leaf = x509.load_der_x509_certificate(SERVER.leaf)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, leaf.not_valid_before_utc, leaf.not_valid_after_utc)
    with pytest.raises(RemoteProtocolError, match="another kind of key"):
        tls.node_of(builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER))


def test_node_of_a_key_of_small_order_is_refused():
    forged = SERVER.leaf.replace(SERVER.identity.id, (1).to_bytes(32, "little"))
    with pytest.raises(RemoteProtocolError, match="small order"):
        tls.node_of(forged)


@pytest.mark.filterwarnings("ignore:.*:cryptography.utils.CryptographyDeprecationWarning")
def test_a_flipped_bit_gives_a_key_or_one_error():
    for bit in range(len(SERVER.leaf) * 8):
        flipped = bytearray(SERVER.leaf)
        flipped[bit // 8] ^= 1 << bit % 8
        with contextlib.suppress(RemoteProtocolError):
            tls.node_of(bytes(flipped))


@given(st.binary(max_size=100))
def test_junk_is_refused(junk):
    for data in (junk, SERVER.leaf[: len(junk)], SERVER.leaf + b"\x00" + junk, SERVER.leaf + bytes(tls.MAX_DER_BYTES)):
        with pytest.raises(RemoteProtocolError, match="malformed x509 certificate"):
            tls.node_of(data)


def test_the_pem_is_the_same_key():
    loaded = load_pem_private_key(tls.private_pem(SERVER.identity), None)
    assert loaded.private_bytes_raw() == SERVER.identity.seed  # type: ignore[union-attr]


def test_misuse_is_our_bug():
    with pytest.raises(LocalProtocolError, match="another issuer"):
        tls.leaf(Identity(b"r" * 32), MESH.anchor, SERVER.identity.id, 0, 1000, 1)
    for before, after, serial in ((1000, 0, 1), (0, 10**18, 1), (0, 1000, 0), (0, 1000, 1 << 160)):
        with pytest.raises(LocalProtocolError, match="^x509: "):
            tls.anchor(MESH.issuer, before, after, serial)
