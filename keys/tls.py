"""X.509 for the streams: a CA certificate per issuer, a leaf per node, both over the Ed25519 keys that exist anyway (RFC 8410).

The host name of a node is ``<base32 id>.mesh``, so that TLS itself refuses the wrong node. The roster carries the CA
certificates. What TLS cannot know (roles, revocation) the streams check after the handshake, by ``node_of``.
Pure functions: no files, no sockets. Everything that OpenSSL's strict mode wants is in (RFC 5280, section 4.2).
"""

import warnings
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cloudisense.keys.errors import LocalProtocolError, RemoteProtocolError
from cloudisense.keys.identity import Identity, NodeId, checked_public_key, node_text

MAX_DER_BYTES = 4096
HOST_SUFFIX = ".mesh"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def host_name(node: NodeId) -> str:
    """The name to ask for when connecting to ``node``, and the only one in its leaf."""
    return node_text(node) + HOST_SUFFIX


def anchor(issuer: Identity, not_before_ms: int, not_after_ms: int, serial: int) -> bytes:
    """The DER of ``issuer``'s self-signed CA certificate, which may sign leaves and nothing below them.

    Times are Unix milliseconds, cut to seconds. ``LocalProtocolError`` for times or a serial that X.509 cannot hold.
    """
    public = issuer.private_key.public_key()
    # Apart from the leaf's name: an issuer is a node too, and a leaf whose issuer has its own name counts as self-signed.
    name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "issuer"), *_name(issuer.id)])
    builder = _builder(name, name, public, not_before_ms, not_after_ms, serial)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_key_usage(ca=True), critical=True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    return _signed(builder, issuer)


def leaf(issuer: Identity, anchor_der: bytes, node: NodeId, not_before_ms: int, not_after_ms: int, serial: int) -> bytes:
    """The DER of ``node``'s certificate, for both ends of a connection, under ``anchor_der``.

    ``LocalProtocolError`` when the anchor is not ``issuer``'s, or for times or a serial that X.509 cannot hold.
    """
    ca = x509.load_der_x509_certificate(anchor_der)
    if node_of(anchor_der) != issuer.id:
        raise LocalProtocolError("the anchor is another issuer's")
    public = Ed25519PublicKey.from_public_bytes(checked_public_key(node))
    builder = _builder(_name(node), ca.subject, public, not_before_ms, not_after_ms, serial)
    ca_key_id = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    extensions: tuple[tuple[x509.ExtensionType, bool], ...] = (
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (_key_usage(ca=False), True),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), False),
        (x509.SubjectAlternativeName([x509.DNSName(host_name(node))]), False),
        (x509.SubjectKeyIdentifier.from_public_key(public), False),
        (x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(ca_key_id), False),
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    return _signed(builder, issuer)


def node_of(der: bytes) -> NodeId:
    """The node whose key the certificate ``der`` carries.

    Says nothing of who signed it: that is for the handshake. ``RemoteProtocolError`` when it is no certificate, or not of
    a valid Ed25519 key.
    """
    if len(der) > MAX_DER_BYTES:
        raise RemoteProtocolError("malformed x509 certificate")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # what the library only warns of (a serial below 1) no issuer of ours makes
            public = x509.load_der_x509_certificate(der).public_key()
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion, Warning):
        raise RemoteProtocolError("malformed x509 certificate") from None
    if not isinstance(public, Ed25519PublicKey):
        raise RemoteProtocolError("x509 certificate of another kind of key")
    return checked_public_key(public.public_bytes_raw())


def private_pem(identity: Identity) -> bytes:
    """The secret key as unencrypted PKCS #8 PEM, because ``ssl`` reads keys from files only. Keep it as carefully as the seed."""
    return identity.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def to_pem(der: bytes) -> bytes:
    """The certificate ``der`` as PEM."""
    return x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)


def _name(node: NodeId) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, node_text(node))])


def _key_usage(ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        key_cert_sign=ca,
        crl_sign=ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, public: Ed25519PublicKey, not_before_ms: int, not_after_ms: int, serial: int
) -> x509.CertificateBuilder:
    try:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(public)
            .serial_number(serial)
            .not_valid_before(_time(not_before_ms))
            .not_valid_after(_time(not_after_ms))
        )
    except (ValueError, OverflowError) as error:
        raise LocalProtocolError(f"x509: {error}") from None


def _time(ms: int) -> datetime:
    # Not fromtimestamp: it goes through the C library, whose range differs between systems.
    return _EPOCH + timedelta(seconds=ms // 1000)


def _signed(builder: x509.CertificateBuilder, issuer: Identity) -> bytes:
    return builder.sign(issuer.private_key, algorithm=None).public_bytes(Encoding.DER)
