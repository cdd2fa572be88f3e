"""A stolen, reused or redirected invite, and join requests that claim too much, against a real server on the loopback."""

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cloudisense import joining
from cloudisense.clock import read_clock
from cloudisense.home import Home, Membership
from cloudisense.joining import Issuer, JoinRequest
from cloudisense.keys import tls
from cloudisense.keys.certificate import check_certificate
from cloudisense.keys.encoding import pack, unpack
from cloudisense.keys.envelope import seal
from cloudisense.keys.identity import Identity
from cloudisense.keys.invite import Token, make_invite, parse_token
from cloudisense.keys.roster import Issuer as Issuing
from cloudisense.keys.roster import sign_roster
from cloudisense.keys.succession import with_issuer
from cloudisense.keys.tls import private_pem
from cloudisense.net.streams import Limits, StreamServer, TlsOwn, send_join
from cloudisense.store import Store

HOUR_MS = 3_600_000


class Founder:
    """A founded mesh whose issuer listens."""

    def __init__(self, folder: Path) -> None:
        self.home = Home(folder)
        self.home.lock()
        self.member = self.home.found("founder", "", read_clock())
        self.home.unlock()
        self.store = Store(self.home.database)
        self.heard: list[bytes] = []
        self.server = self.serve(self.member)

    def serve(self, member: Membership) -> StreamServer:
        issuer = Issuer(member, self.store, ("127.0.0.1", 7963))

        async def join(body: bytes, source: str) -> bytes:
            self.heard.append(body)
            return await issuer.answer(body, [])

        anchors = [i.anchor for i in member.roster.issuers]
        own = TlsOwn(member.leaf, private_pem(member.identity))
        limits = Limits(join_burst=100)
        return StreamServer(
            own, anchors, admit=lambda n: True, on_bulk=lambda n, b: None, on_join=join, roster_chain=lambda: member.chain, limits=limits
        )

    def invite(self, uses: int = 1, ms: int = HOUR_MS, port: int = 0) -> str:
        expires = read_clock().wall_ms + ms
        where = (("127.0.0.1", port or self.server.port),)
        text, record = make_invite(
            random.SystemRandom(), self.member.mesh_id, self.member.identity.id, where, ("member", "actor"), uses, expires
        )
        self.store.put_invite(record)
        return text


@pytest.fixture
async def founder(tmp_path: Path) -> AsyncIterator[Founder]:
    founder = Founder(tmp_path / "founder")
    await founder.server.start("127.0.0.1", 0)
    yield founder
    await founder.server.close()
    founder.store.close()


async def join(folder: Path, text: str, name: str) -> Membership:
    home = Home(folder)
    home.lock()
    try:
        return await joining.join(home, text, name, (), "")
    finally:
        home.unlock()


async def test_an_invite_is_good_once(founder: Founder, tmp_path: Path) -> None:
    """Control: ``Store.spend_invite``, durable before anything is issued."""
    text = founder.invite()
    assert (await join(tmp_path / "b", text, "b")).name == "b"
    with pytest.raises(ValueError, match="used up"):
        await join(tmp_path / "thief", text, "thief")
    assert not (tmp_path / "thief" / "identity.key").exists()


async def test_of_many_thieves_at_once_one_gets_in(founder: Founder, tmp_path: Path) -> None:
    """Control: the transaction of ``spend_invite`` takes the write lock before it reads."""
    token = parse_token(founder.invite())
    results = await asyncio.gather(*(ask(founder, token, f"t{i}") for i in range(4)), return_exceptions=True)
    assert sum(isinstance(result, bytes) for result in results) == 1


async def test_an_invite_ends(founder: Founder, tmp_path: Path) -> None:
    """Control: the issuer's own clock; the thief's own clock may say what it likes."""
    token = parse_token(founder.invite(ms=1))
    await asyncio.sleep(0.01)
    with pytest.raises(ValueError, match="expired"):
        await ask(founder, token, "late")


async def test_a_secret_alone_is_not_enough_for_anothers_key(founder: Founder) -> None:
    """Control: the request is signed by the key that it wants certified. Nobody gets a certificate for another's key."""
    token = parse_token(founder.invite())
    victim, thief = Identity(b"v" * 32), Identity(b"t" * 32)
    body = seal(thief, "join", token.mesh_id, pack(JoinRequest(token.secret, "x", ())))
    forged = body.replace(thief.id, victim.id)
    with pytest.raises(ValueError, match="bad signature"):
        await send_join(token.addresses[0], founder.member.leaf, forged)
    assert [row["uses_left"] for row in founder.store.rows("invites")] == [1], "and the invite is not spent"


@pytest.mark.parametrize("wrong", ["of another mesh", "of another type", "guessed"])
async def test_requests_that_are_no_requests(founder: Founder, wrong: str) -> None:
    token = parse_token(founder.invite())
    identity = Identity(b"j" * 32)
    mesh_id = b"m" * 32 if wrong == "of another mesh" else token.mesh_id
    secret = bytes(16) if wrong == "guessed" else token.secret
    body = seal(identity, "left" if wrong == "of another type" else "join", mesh_id, pack(JoinRequest(secret, "x", ())))
    with pytest.raises(ValueError):
        await send_join(token.addresses[0], founder.member.leaf, body)
    assert [row["uses_left"] for row in founder.store.rows("invites")] == [1]


async def test_the_invite_decides_the_roles(founder: Founder) -> None:
    """There is no field to ask for more; what is issued is what the record says."""
    token = parse_token(founder.invite())
    reply: Any = unpack(await ask(founder, token, "modest"), joining.JoinReply, joining.REPLY_BYTES)
    now = read_clock().wall_ms
    assert check_certificate(reply.certificate, founder.member.roster, token.mesh_id, now, True).roles == ("member", "actor")
    assert founder.member.roster.issuer(check_certificate(reply.certificate, founder.member.roster, token.mesh_id, now, True).node) is None


async def test_who_is_no_issuer_admits_nobody(founder: Founder, tmp_path: Path) -> None:
    """Control: ``Issuer.answer`` asks the roster. A member that runs the same code cannot let anybody in."""
    member = await join(tmp_path / "b", founder.invite(), "b")
    server = founder.serve(member)
    await server.start("127.0.0.1", 0)
    try:
        token = parse_token(founder.invite())
        body = seal(Identity(b"j" * 32), "join", token.mesh_id, pack(JoinRequest(token.secret, "x", ())))
        with pytest.raises(ValueError, match="may not issue"):
            await send_join(("127.0.0.1", server.port), member.leaf, body)
    finally:
        await server.close()


async def test_the_secret_goes_to_the_issuer_only(founder: Founder, tmp_path: Path) -> None:
    """Control: ``joining._ask``. A member that answers at the issuer's address, with a true roster, does not learn the secret."""
    member = await join(tmp_path / "b", founder.invite(), "b")
    server = founder.serve(member)
    await server.start("127.0.0.1", 0)
    founder.heard.clear()
    try:
        with pytest.raises(ValueError, match="secret was not sent"):
            await join(tmp_path / "c", founder.invite(port=server.port), "c")
        assert founder.heard == []
    finally:
        await server.close()


async def test_nor_to_another_issuer_of_the_same_mesh(founder: Founder, tmp_path: Path) -> None:
    """Control: ``joining._ask`` compares with the issuer that the invite names; another one does not know it, and needs not to."""
    member = await join(tmp_path / "b", founder.invite(), "b")
    root = founder.home.key("root")
    anchor = tls.anchor(member.identity, 0, 2**41, 7)
    roster = with_issuer(founder.member.roster, Issuing(member.identity.id, anchor))
    chain = (*founder.member.chain, sign_roster(roster, member.mesh_id, root))
    second = founder.serve(replace(member, chain=chain, roster=roster))
    await second.start("127.0.0.1", 0)
    founder.heard.clear()
    try:
        with pytest.raises(ValueError, match="not the issuer of this invite; the secret was not sent"):
            await join(tmp_path / "c", founder.invite(port=second.port), "c")
        assert founder.heard == []
    finally:
        await second.close()


async def ask(founder: Founder, token: Token, name: str) -> bytes:
    """What a thief with its own software does with a token."""
    identity = Identity(random.randbytes(32))
    body = seal(identity, "join", token.mesh_id, pack(JoinRequest(token.secret, name, ())))
    return await send_join(token.addresses[0], founder.member.leaf, body)


def test_a_damaged_invite_says_so() -> None:
    with pytest.raises(ValueError, match="not a CloudiSENSE invite|damaged"):
        parse_token("cloudisense-join-" + "a" * 50)
