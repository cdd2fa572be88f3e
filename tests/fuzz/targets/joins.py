"""X.509 certificates and both bodies of a join: the issuer's side with a real store, the joiner's by its decoders."""

import asyncio
import contextlib
import tempfile
from collections.abc import Callable
from pathlib import Path

from cloudisense.clock import read_clock
from cloudisense.home import Home
from cloudisense.joining import REPLY_BYTES, Issuer, JoinReply, JoinRequest
from cloudisense.keys.encoding import pack, unpack
from cloudisense.keys.envelope import seal
from cloudisense.keys.errors import RemoteProtocolError
from cloudisense.keys.testing import issue_for_tests
from cloudisense.keys.tls import node_of
from cloudisense.store import Store

KEYS = issue_for_tests(1)


def seeds() -> list[bytes]:
    """One of each."""
    reply = JoinReply(KEYS.valid.certificate, KEYS.valid.leaf, KEYS.chain, (("10.0.0.1", 1),))
    request = pack(JoinRequest(bytes(16), "n", (("a", "b"),)))
    return [
        b"\0" + KEYS.valid.leaf,
        b"\0" + KEYS.anchor,
        b"\x01" + request,
        b"\x02" + seal(KEYS.root, "join", bytes(32), request),
        b"\x03" + pack(reply),
    ]


def make() -> Callable[[bytes], None]:
    """The thing to feed."""
    folder = tempfile.TemporaryDirectory(prefix="fuzz")
    home = Home(Path(folder.name) / "state")
    home.lock()
    member = home.found("founder", "", read_clock())
    store = Store(home.database)
    issuer = Issuer(member, store, ("127.0.0.1", 1))
    joiner = KEYS.valid.identity

    def one(data: bytes, keep: object = folder) -> None:
        if not data:
            return
        with contextlib.suppress(RemoteProtocolError):
            way, rest = data[0] % 4, data[1:]
            if way == 0:
                node_of(rest)
            elif way == 1:
                asyncio.run(issuer.answer(seal(joiner, "join", member.mesh_id, rest), []))
                raise AssertionError("nobody made an invite")
            elif way == 2:
                asyncio.run(issuer.answer(rest, []))
            else:
                unpack(rest, JoinReply, REPLY_BYTES)

    return one
