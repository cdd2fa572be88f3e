"""A node's new key over real TLS: what it keeps, what the old one loses, and a crash at every step."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cloudisense import home as home_module
from cloudisense import rotation
from cloudisense.clock import read_clock
from cloudisense.home import VALID_MS, Home, Membership, certify
from cloudisense.joining import Issuer, join
from cloudisense.keys.encoding import pack, unpack
from cloudisense.keys.envelope import seal
from cloudisense.keys.errors import RemoteProtocolError
from cloudisense.keys.handover import seal_handover, seal_succession
from cloudisense.keys.identity import Identity
from cloudisense.keys.invite import make_invite
from cloudisense.keys.roster import sign_roster
from cloudisense.keys.succession import settling
from cloudisense.keys.tls import private_pem
from cloudisense.mesh.revocation import REPLACED_MS, SKEW_MS, seal_revocation
from cloudisense.mesh.trust import Trust
from cloudisense.net.streams import StreamServer, TlsOwn, send_renewal
from cloudisense.renewal import GRACE_MS, content, renew, renew_own
from cloudisense.rotation import MAX_ROTATIONS, RotateReply, RotateRequest, answer, rotate
from cloudisense.store import Store

LABELS = (("rack", "1"),)


class Founder:
    """A founded mesh whose issuer listens, and a member ``b`` of it that is down. ``trust`` is what the mesh knows."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = Home(folder / "a")
        self.home.lock()
        self.member = self.home.found("a", "", read_clock())
        self.home.unlock()
        self.store = Store(self.home.database)
        self.trust = Trust(self.member.chain)
        self.restart()

    def restart(self) -> None:
        """The issuer forgets what it did not make durable."""
        self.issuer = Issuer(self.member, self.store, ("127.0.0.1", 1))

    def tell(self, claim: bytes) -> None:
        self.trust.revoke(claim, read_clock())
        self.refresh()

    def refresh(self) -> None:
        self.trust.refresh(read_clock())
        self.member = self.issuer.member = replace(self.member, roster=self.trust.roster, chain=self.trust.chain)

    async def renewed(self, body: bytes) -> bytes:
        return await answer(self.issuer, self.trust.signed, dict(self.trust.revocations.replaced()), (), body, self.tell)

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator["Founder"]:
        own = TlsOwn(self.member.leaf, private_pem(self.member.identity))

        async def joined(body: bytes, source: str) -> bytes:
            return await self.issuer.answer(body, [])

        server = StreamServer(
            own, [self.member.roster.issuers[0].anchor], admit=lambda node: True, on_bulk=lambda node, body: None, on_join=joined,
            roster_chain=lambda: self.member.chain, on_renew=self.renewed,
        )  # fmt: skip
        await server.start("127.0.0.1", 0)
        self.address = ("127.0.0.1", server.port)
        self.issuer._address = self.address
        try:
            await self.join("b")
            yield self
        finally:
            await server.close()
            await asyncio.sleep(0.02)
            self.store.close()

    async def join(self, name: str) -> Membership:
        expires = read_clock().wall_ms + 10**6
        text, record = make_invite(
            random.SystemRandom(), self.member.mesh_id, self.member.identity.id, (self.address,), ("member", "actor"), 1, expires
        )
        self.store.put_invite(record)
        return await self.with_home(name, lambda home: join(home, text, name, LABELS, ""))

    async def with_home(self, name: str, work: Callable[[Home], Any]) -> Membership:
        home = Home(self.folder / name)
        home.lock()
        try:
            return await work(home)
        finally:
            home.unlock()

    async def rotate(self, name: str = "b") -> Membership:
        return await self.with_home(name, rotate)

    def request(self, old: Membership, new: Identity, handover: bytes | None = None) -> bytes:
        word = handover or seal_handover(old.identity, old.mesh_id, new.id)
        return seal(new, "rotate", old.mesh_id, pack(RotateRequest(old.certificate, word)))


@pytest.fixture
async def founder(tmp_path: Path) -> AsyncIterator[Founder]:
    async with Founder(tmp_path).listening() as founder:
        yield founder


async def test_a_new_key_with_the_same_name_roles_and_labels(founder: Founder) -> None:
    old = Home(founder.folder / "b").load()
    new = await founder.rotate()
    assert new.identity.id != old.identity.id and Home(founder.folder / "b").key("identity").id == new.identity.id
    before, after = content(old.certificate), content(new.certificate)
    assert (after.name, after.roles, after.labels) == (before.name, before.roles, before.labels)
    assert founder.trust.roster.is_revoked(old.identity.id) and not founder.trust.roster.is_revoked(new.identity.id)
    assert Home(founder.folder / "b").replaced(new) == ((old.identity.id, new.identity.id),), "it tells whomever it meets"
    assert not Home(founder.folder / "b").rotating
    again = await founder.rotate()
    assert again.identity.id not in (old.identity.id, new.identity.id), "and once more, from the new one"


def test_what_was_replaced_is_remembered_longer_than_its_certificate_could_be_renewed() -> None:
    assert REPLACED_MS >= VALID_MS + GRACE_MS + SKEW_MS


class Crash(BaseException):
    """The process ends here."""


STEPS: dict[str, tuple[Any, str, bool]] = {
    "before it asks": (rotation, "meet_issuer", False),
    "the answer is lost": (rotation, "send_renewal", True),
    "before the certificate is durable": (Home, "keep_rotation", False),
    "the certificate is durable": (Home, "keep_rotation", True),
    "the key files are exchanged": (home_module, "sync_folder", True),
}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("then", ["again", "settled", "up"])
async def test_a_crash_costs_nothing(founder: Founder, monkeypatch: pytest.MonkeyPatch, step: str, then: str) -> None:
    where, name, after = STEPS[step]
    home = Home(founder.folder / "b")
    old = home.load()
    home.next_key()  # durable before anything else; its own write is no step of ours to break
    real = getattr(where, name)

    async def broken_later(*words: Any) -> None:
        if after:
            await real(*words)
        raise Crash

    def broken(*words: Any) -> None:
        if after:
            real(*words)
        raise Crash

    with monkeypatch.context() as patched:
        patched.setattr(where, name, broken_later if asyncio.iscoroutinefunction(real) else broken)
        with pytest.raises(Crash):
            await founder.rotate()
    member = home.load()
    assert member.identity.id in (old.identity.id, content(member.certificate).node), "some key always fits its certificate"
    founder.restart()
    if then == "settled" and founder.trust.revocations.replaced():
        roster = settling(founder.trust.signed, founder.trust.revocations.replaced(), ())
        chain = (*founder.trust.chain, sign_roster(roster, founder.member.mesh_id, founder.home.key("root")))
        assert founder.trust.offer(chain)
        founder.refresh()
    if then == "up":
        home.finish_rotation()
        assert home.load().certificate
    new = home.load() if then == "up" and not home.rotating else await founder.rotate()
    assert new.identity.id != old.identity.id and not home.rotating
    assert home.load().identity.id == content(new.certificate).node == content(home.load().certificate).node
    assert founder.trust.roster.is_revoked(old.identity.id) and not founder.trust.roster.is_revoked(new.identity.id)
    store = Store.open_readonly(home.database)
    assert store.get_meta("rotated") == b""
    store.close()


async def test_a_revoked_node_cannot(founder: Founder) -> None:
    """Control: ``check_certificate`` in ``rotation._checked`` under the roster with what operators revoked."""
    old = Home(founder.folder / "b").load()
    founder.trust.revoke(seal_revocation(founder.home.key("operator"), old.mesh_id, old.identity.id, read_clock().wall_ms), read_clock())
    founder.refresh()
    with pytest.raises(ValueError, match="revoked key"):
        await founder.rotate()
    assert Home(founder.folder / "b").load().identity.id == old.identity.id


async def test_a_thief_with_a_replaced_key_gets_nothing(founder: Founder) -> None:
    """Control: an issuer looks at what was replaced, and at whom it gave the name; it renews only what is not revoked."""
    old = Home(founder.folder / "b").load()
    await founder.rotate()
    thief = Identity(b"t" * 32)
    with pytest.raises(ValueError, match="replaced already"):
        await send_renewal(founder.address, founder.member.leaf, founder.request(old, thief))
    with pytest.raises(RemoteProtocolError, match="revoked key"):
        renew(founder.member, seal(old.identity, "renew", old.mesh_id, old.certificate))
    # What he says himself, without an issuer, counts nowhere.
    claim = seal_succession(thief, old.mesh_id, seal_handover(old.identity, old.mesh_id, thief.id), 0)
    with pytest.raises(RemoteProtocolError, match="no issuer"):
        founder.trust.revoke(claim, read_clock())
    # Nor before an issuer that forgot everything but the roster of the mesh.
    founder.restart()
    for row in founder.store.rows("meta"):
        if row["key"].startswith("successor/"):
            founder.store.put_meta(row["key"], b"")
    with pytest.raises(RemoteProtocolError, match="replaced already"):
        await founder.renewed(founder.request(old, thief))


async def test_two_at_once_one_gets_it(founder: Founder) -> None:
    old = Home(founder.folder / "b").load()
    bodies = [founder.request(old, Identity(bytes([n]) * 32)) for n in range(1, 5)]
    results = await asyncio.gather(*(founder.renewed(body) for body in bodies), return_exceptions=True)
    assert sum(isinstance(result, bytes) for result in results) == 1
    assert len(founder.trust.revocations.replaced()) == 1


async def test_who_asks_again_gets_no_more_than_it_had(founder: Founder) -> None:
    """Control: the certificate is checked, also when the issuer knows the successor already."""
    old, new = Home(founder.folder / "b").load(), Identity(b"n" * 32)
    await founder.renewed(founder.request(old, new))
    rogue = Identity(b"r" * 32)
    forged = seal(rogue, "certificate", old.mesh_id, pack(replace_roles(old)))
    with pytest.raises(RemoteProtocolError):
        await founder.renewed(founder.request(replace(old, certificate=forged), new))
    reply = unpack(await founder.renewed(founder.request(old, new)), RotateReply, 1 << 20)
    assert content(reply.certificate).roles == content(old.certificate).roles


def replace_roles(member: Membership) -> Any:
    import msgspec

    return msgspec.structs.replace(content(member.certificate), roles=("member", "operator"))


async def test_requests_that_are_none(founder: Founder) -> None:
    b, c = Home(founder.folder / "b").load(), await founder.join("c")
    new = Identity(b"n" * 32)
    instant = read_clock()
    then = replace(instant, wall_ns=instant.wall_ns - (VALID_MS + GRACE_MS) * 1_000_000)
    founder_member = founder.member
    stale, _ = certify(founder_member.identity, founder_member.roster, b.mesh_id, b.identity.id, "b", ("member",), (), then)
    for body, why in (
        (founder.request(b, c.identity, seal_handover(b.identity, b.mesh_id, new.id)), "another successor"),
        (founder.request(b, new, seal_handover(c.identity, b.mesh_id, new.id)), "another key"),
        (founder.request(b, founder.member.identity), "somebody's"),
        (founder.request(b, founder.home.key("operator")), "somebody's"),
        (founder.request(replace(b, certificate=stale), new), "30 days"),
        (founder.request(founder.member, new), "issuer"),
        (seal(new, "rotate", b.mesh_id, b"junk"), "malformed"),
        (seal(new, "renew", b.mesh_id, b.certificate), "type"),
    ):
        with pytest.raises(RemoteProtocolError, match=why):
            await founder.renewed(body)
    assert founder.trust.revocations.replaced() == ()
    with pytest.raises(ValueError, match="is an issuer"):
        await founder.rotate("a")
    assert renew_own(founder.member)


async def test_so_often_and_no_more(founder: Founder) -> None:
    for _ in range(MAX_ROTATIONS):
        last = await founder.rotate()
    with pytest.raises(ValueError, match=f"{MAX_ROTATIONS} times in 90 days"):
        await founder.rotate()
    assert Home(founder.folder / "b").load().identity.id == last.identity.id, "and the node stays a member"


async def test_no_issuer_to_be_had(founder: Founder, monkeypatch: pytest.MonkeyPatch) -> None:
    async def nobody(*words: Any) -> bytes:
        raise ValueError("nobody is there")

    monkeypatch.setattr(rotation, "meet_issuer", nobody)
    with pytest.raises(ValueError, match="the old key stays: nobody is there"):
        await founder.rotate()
