"""What makes a simulated hour short: pure functions that remember their results, and session keys without a curve.

No agent imports this; it changes what a run costs and nothing that happens in it.
"""

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

from cloudisense.keys import certificate, envelope, roster
from cloudisense.keys.certificate import Role, read_certificate
from cloudisense.keys.session import SessionKey, Sessions
from cloudisense.keys.testing import TestMember, TestMesh, issue_for_tests
from cloudisense.mesh import delivery, fork, membership
from cloudisense.mesh.core import Mesh
from cloudisense.mesh.dissemination import Piggyback
from cloudisense.mesh.instant import Instant
from cloudisense.mesh.member import Member

KEYRINGS = 16
"""Worlds whose seeds are the same modulo this have the same keys: making them costs more than a minute of virtual time."""
REMEMBERED = 1 << 15
_REMEMBERING: tuple[tuple[Any, str], ...] = (
    (envelope, "verify"),
    (roster, "verify"),
    (certificate, "open_envelope"),
    (membership, "open_envelope"),
    (membership, "unpack"),
    (delivery, "parse_entry"),
    (fork, "parse_entry"),
)
"""Where pure functions of bytes are called: signatures, and the parsing of what was signed. All that they return is immutable."""


class SimSessions(Sessions):
    """The real seals and replay windows, under keys that come from a hash of both public keys instead of X25519 and HKDF.

    Only a node that holds one of the two session keys ever computes it, so that who holds neither opens nothing, as outside.
    """

    def keys_of_pair(self, own: SessionKey, public: bytes, info: bytes) -> bytes:
        """A hash instead of an exchange."""
        return hashlib.blake2b(b"".join(sorted((own.public, public))) + info, key=b"cloudisense simulation").digest()


@contextlib.contextmanager
def remembering() -> Iterator[None]:
    """Within this, each signature is checked once for all nodes together. Errors are not remembered."""
    before = [getattr(module, name) for module, name in _REMEMBERING]
    for (module, name), function in zip(_REMEMBERING, before, strict=True):
        setattr(module, name, _memo(function))
    try:
        yield
    finally:
        for (module, name), function in zip(_REMEMBERING, before, strict=True):
            setattr(module, name, function)


@lru_cache(16)
def _memo(function: Callable[..., object]) -> Callable[..., object]:
    return function if hasattr(function, "cache_info") else lru_cache(REMEMBERED)(function)


def keyring(seed: int) -> TestMesh:
    """The keys of a simulated mesh."""
    return _keyring(seed % KEYRINGS)


def member_of(seed: int, name: str, roles: tuple[Role, ...] = ("member", "voter", "actor")) -> TestMember:
    """One member of it."""
    return _member(seed % KEYRINGS, name, roles)


def acquaint(meshes: list[Mesh], now: Instant) -> None:
    """Let all know all, as after a join and a while of peace: a thousand nodes would need a million greetings."""
    tables = [mesh._membership for mesh in meshes]
    known = [(table.claim, table._context.certificate) for table in tables]
    heads = [(table.check_alive(claim), read_certificate(data), claim, data) for table, (claim, data) in zip(tables, known, strict=True)]
    for table in tables:
        for alive, paper, claim, data in heads:
            if alive.node != table._context.id:
                table._context.sessions.learn(alive.node, alive.session_public, now)
                it = table.members[alive.node] = Member(alive.node, alive, claim, data, paper, "alive", now.wall_ms, heard=True)
                table.sum_up(it)
                table.rows.put(it)
        table.touched()
        table._piggyback = Piggyback()
        table._out.poll_effects()


@lru_cache(KEYRINGS)
def _keyring(number: int) -> TestMesh:
    return issue_for_tests(number)


@lru_cache(1 << 12)
def _member(number: int, name: str, roles: tuple[Role, ...]) -> TestMember:
    return _keyring(number).member(name, roles)
