"""Certificate: an issuer's word that a key is a member of this mesh, with its name, roles and labels.

Who may issue, vote or operate is the roster's word: a role here says what a node is for, and the roster must agree
wherever it has a list. Nothing here is trusted without the roster of the moment, because revocation lives there.
"""

import re
from typing import Literal

import msgspec

from cloudisense.keys.encoding import pack, unpack
from cloudisense.keys.envelope import open_envelope, read_envelope, seal
from cloudisense.keys.errors import LocalProtocolError, RemoteProtocolError
from cloudisense.keys.identity import NODE_ID_BYTES, Identity, checked_public_key
from cloudisense.keys.roster import Roster

Role = Literal["member", "voter", "actor", "issuer", "operator", "witness"]
ROLES: tuple[Role, ...] = ("member", "voter", "actor", "issuer", "operator", "witness")

MAX_CERTIFICATE_BYTES = 4096
MAX_LABELS = 16
LABELS_CHARS = 640
"""All labels together, names and values: so that a hello, which carries the certificate, fits one datagram (docs/wire.md)."""
MAX_MS = 2**53
"""Times in milliseconds stay exact in JSON."""

CERTIFICATE_TYPE = "certificate"

_NAME = re.compile(r"[a-z0-9-]{1,63}")
_LABEL_KEY = re.compile(r"[a-z0-9][a-z0-9_.-]{0,62}")
_LABEL_VALUE = re.compile(r"[\x20-\x7e]{0,128}")


class Certificate(msgspec.Struct, frozen=True, array_like=True):
    """What an issuer certifies. ``ValueError``, with one line for a person, when a field is out of bounds."""

    node: bytes
    name: str
    """1 to 63 characters of ``[a-z0-9-]``."""
    roles: tuple[str, ...]
    labels: tuple[tuple[str, str], ...]
    """(key, value) pairs with distinct keys, e.g. ``("zone", "cellar")``."""
    not_before_ms: int
    """Unix time in milliseconds, inclusive."""
    not_after_ms: int
    """Unix time in milliseconds, exclusive."""
    issuer: bytes

    def __post_init__(self) -> None:
        problem = _problem(self)
        if problem is not None:
            raise ValueError(problem)

    def has(self, role: Role) -> bool:
        """Whether the issuer gave it ``role``."""
        return role in self.roles


def _problem(certificate: Certificate) -> str | None:
    """The first thing wrong with its form, in words."""
    rules = (
        (len(certificate.node) == len(certificate.issuer) == NODE_ID_BYTES, "certificate: a key has 32 bytes"),
        (_NAME.fullmatch(certificate.name), "a node's name is 1 to 63 characters of a-z, 0-9 and -"),
        (certificate.roles and set(certificate.roles) <= set(ROLES), f"roles are some of: {' '.join(ROLES)}"),
        (len(set(certificate.roles)) == len(certificate.roles), "a role is given twice"),
        (0 <= certificate.not_before_ms < certificate.not_after_ms <= MAX_MS, "certificate: it must end after it begins"),
    )
    wrong = next((words for holds, words in rules if not holds), None)
    return wrong or labels_problem(certificate.labels)


def labels_problem(labels: tuple[tuple[str, str], ...]) -> str | None:
    """The first thing wrong with ``labels``, in words: a joiner asks before it asks an issuer."""
    keys = [key for key, _ in labels]
    values = [value for _, value in labels]
    rules = (
        (len(keys) <= MAX_LABELS, f"at most {MAX_LABELS} labels"),
        (len(set(keys)) == len(keys), "a label is given twice"),
        (all(_LABEL_KEY.fullmatch(key) for key in keys), "a label's name is 1 to 63 characters of a-z, 0-9, _ . and -"),
        (all(_LABEL_VALUE.fullmatch(value) for value in values), "a label's value is at most 128 printable ASCII characters"),
        (sum(map(len, (*keys, *values))) <= LABELS_CHARS, f"all labels together are at most {LABELS_CHARS} characters"),
    )
    return next((words for holds, words in rules if not holds), None)


def issue(issuer: Identity, mesh_id: bytes, certificate: Certificate) -> bytes:
    """``certificate`` signed by ``issuer``, whom it must name; the envelope's bytes."""
    if certificate.issuer != issuer.id:
        raise LocalProtocolError("the certificate names another issuer")
    return seal(issuer, CERTIFICATE_TYPE, mesh_id, pack(certificate))


def read_certificate(data: bytes) -> Certificate:
    """The certificate in ``data``, unverified: for our own. ``RemoteProtocolError`` when malformed."""
    return unpack(read_envelope(data, MAX_CERTIFICATE_BYTES).body, Certificate, MAX_CERTIFICATE_BYTES)


def check_certificate(data: bytes, roster: Roster, mesh_id: bytes, wall_ms: int, wall_trusted: bool) -> Certificate:
    """The certificate in ``data``, if it holds now under ``roster``.

    ``wall_ms`` is Unix time; with ``wall_trusted`` false the validity is not checked (DESIGN section 2: a node without
    a clock joins and gossips). Raises ``RemoteProtocolError``: ``malformed ...``, ``bad signature``, ``unknown issuer``,
    ``revoked key``, ``certificate expired``, ``certificate not yet valid``, or what is wrong with the key.
    """
    envelope = open_envelope(data, mesh_id, CERTIFICATE_TYPE, MAX_CERTIFICATE_BYTES)
    certificate = unpack(envelope.body, Certificate, MAX_CERTIFICATE_BYTES)
    if certificate.issuer != envelope.signer:
        raise RemoteProtocolError("certificate signed by another key than its issuer")
    node = checked_public_key(certificate.node)
    if roster.is_revoked(node) or roster.is_revoked(certificate.issuer):
        raise RemoteProtocolError("revoked key", node)
    if roster.issuer(certificate.issuer) is None:
        raise RemoteProtocolError("unknown issuer", node)
    if wall_trusted and wall_ms < certificate.not_before_ms:
        raise RemoteProtocolError("certificate not yet valid", node)
    if wall_trusted and wall_ms >= certificate.not_after_ms:
        raise RemoteProtocolError("certificate expired", node)
    return certificate
