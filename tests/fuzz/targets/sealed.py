"""Sealed datagrams: ``Sessions.open`` gives a plaintext that was sealed, or one error, and remembers nothing of the rest."""

from collections.abc import Callable

from cloudisense.keys.errors import RemoteProtocolError
from cloudisense.keys.session import Sessions
from cloudisense.keys.testing import issue_for_tests
from cloudisense.mesh.instant import Instant

KEYS = issue_for_tests(1)
NOW = Instant(10**10, 10**18)


def _pair() -> tuple[Sessions, Sessions]:
    anna, bert = KEYS.member("anna"), KEYS.member("bert")
    ours = Sessions(anna.identity.id, KEYS.mesh_id, anna.session_key)
    theirs = Sessions(bert.identity.id, KEYS.mesh_id, bert.session_key)
    ours.learn(bert.identity.id, bert.session_key.public, NOW)
    theirs.learn(anna.identity.id, anna.session_key.public, NOW)
    return ours, theirs


def seeds() -> list[bytes]:
    """Datagrams that open."""
    _, theirs = _pair()
    return [theirs.seal(KEYS.member("anna").identity.id, b"words" * n) for n in range(4)]


def make() -> Callable[[bytes], None]:
    """The thing to feed."""
    ours, theirs = _pair()
    true = set(seeds())
    del theirs

    def one(data: bytes) -> None:
        try:
            _, plaintext = ours.open(data, NOW)
        except RemoteProtocolError:
            assert len(ours._own.pairs) <= 1
            return
        assert data in true and plaintext.strip(b"words") == b""

    return one
