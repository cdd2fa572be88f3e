"""TLS contexts for streams: TLS 1.3 only, our own anchors only, the private key never on disk."""

import os
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field

from cloudisense.keys.errors import LocalProtocolError
from cloudisense.keys.tls import to_pem


@dataclass(frozen=True, slots=True)
class TlsOwn:
    """This node's side of TLS: its leaf certificate (DER) and its key (PEM), as ``keys.tls`` makes them."""

    leaf: bytes
    key_pem: bytes = field(repr=False)


def server_context(own: TlsOwn, anchors: Sequence[bytes]) -> ssl.SSLContext:
    """Asks for a client certificate, does not insist on one (joiners have none), refuses one of another mesh.

    No session tickets: every connection shows its certificate anew, so a revoked key cannot ride on an old session.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_OPTIONAL
    context.num_tickets = 0
    _restrict(context)
    _trust(context, anchors)
    _load_own(context, own)
    return context


def client_context(own: TlsOwn, anchors: Sequence[bytes]) -> ssl.SSLContext:
    """For one member to another: the server must chain to an anchor and carry the expected SAN."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.hostname_checks_common_name = False
    _restrict(context)
    _trust(context, anchors)
    _load_own(context, own)
    return context


def first_contact_context() -> ssl.SSLContext:
    """For a joiner, who has no anchors yet: encrypted, not verified. Its callers pin or check what they get."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    _restrict(context)
    return context


def _restrict(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_STRICT
    context.set_alpn_protocols(["http/1.1"])


def _trust(context: ssl.SSLContext, anchors: Sequence[bytes]) -> None:
    if not anchors:
        raise LocalProtocolError("a mesh has at least one issuer, so there is at least one anchor")
    context.load_verify_locations(cadata=b"".join(anchors))


def _load_own(context: ssl.SSLContext, own: TlsOwn) -> None:
    # ssl reads keys from named files only; a memfd has a name under /proc and no place on any disk.
    descriptor = os.memfd_create("cloudisense-tls", os.MFD_CLOEXEC)
    with os.fdopen(descriptor, "wb") as file:
        file.write(to_pem(own.leaf) + own.key_pem)
        file.flush()
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
