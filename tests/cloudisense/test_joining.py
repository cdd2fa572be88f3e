"""Joining over real TLS: what the joiner checks before and after, and what the issuer refuses."""

import asyncio
import contextlib
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from cloudisense import joining
from cloudisense.clock import read_clock
from cloudisense.home import Home, Membership, certify
from cloudisense.joining import Issuer, JoinReply, default_name, join
from cloudisense.keys.certificate import Certificate
from cloudisense.keys.encoding import pack, unpack
from cloudisense.keys.envelope import read_envelope, seal
from cloudisense.keys.errors import RemoteProtocolError
from cloudisense.keys.identity import Identity
from cloudisense.keys.invite import make_invite, parse_token
from cloudisense.keys.tls import node_of, private_pem
from cloudisense.mesh.effects import Put
from cloudisense.mesh.instant import Instant
from cloudisense.net.streams import StreamServer, TlsOwn
from cloudisense.store import Store

HERE = "127.0.0.1"
HOUR_MS = 3_600_000
Handler = Callable[[bytes, str], Awaitable[bytes]]


class Mesh:
    """A founded mesh with its issuer listening. ``bodies`` is every join request that reached it."""

    def __init__(self, folder: Path) -> None:
        self.home = Home(folder)
        self.home.lock()
        self.member = self.home.found("a", "", read_clock())
        self.home.unlock()
        self.store = Store(self.home.database)
        self.bodies: list[bytes] = []
        self.address = (HERE, 0)
        self.issuer = Issuer(self.member, self.store, (HERE, 7963))

    async def answer(self, body: bytes, source: str) -> bytes:
        """What an honest agent does with a join request."""
        return await self.issuer.answer(body, [])

    def invite(self, *addresses: tuple[str, int], roles: tuple[str, ...] = ("member",), uses: int = 1, token_ms: int = HOUR_MS) -> str:
        """A new invite's text; its record at the issuer is good for an hour."""
        rng, now_ms = random.SystemRandom(), read_clock().wall_ms
        where = addresses or (self.address,)
        text, record = make_invite(rng, self.member.mesh_id, self.member.identity.id, where, roles, uses, now_ms + token_ms)
        self.store.put_invite(msgspec.structs.replace(record, expires_ms=now_ms + HOUR_MS))
        return text

    def uses_left(self) -> list[int]:
        return [row["uses_left"] for row in self.store.rows("invites")]

    @contextlib.asynccontextmanager
    async def listening(
        self, answer: Handler | None = None, chain: tuple[bytes, ...] | None = None, leaf: bytes = b"", key: Identity | None = None
    ) -> AsyncIterator["Mesh"]:
        """Serve, honestly unless told otherwise."""

        async def joined(body: bytes, source: str) -> bytes:
            self.bodies.append(body)
            return await (answer or self.answer)(body, source)

        own = TlsOwn(leaf or self.member.leaf, private_pem(key or self.member.identity))
        anchors = [issuer.anchor for issuer in self.member.roster.issuers]
        server = StreamServer(
            own,
            anchors,
            admit=lambda node: True,
            on_bulk=lambda node, body: None,
            on_join=joined,
            roster_chain=lambda: chain or self.member.chain,
        )
        await server.start(HERE, 0)
        self.address = (HERE, server.port)
        try:
            yield self
        finally:
            await server.close()
            await asyncio.sleep(0.02)  # the joiner's connections end a few turns of the loop after their session
            self.store.close()


@pytest.fixture
def mesh(tmp_path: Path) -> Mesh:
    return Mesh(tmp_path / "a")


async def joiner(folder: Path, token: str, name: str = "b", labels: tuple[tuple[str, str], ...] = ()) -> Membership:
    """Join as the command does."""
    home = Home(folder)
    home.lock()
    try:
        return await join(home, token, name, labels, "")
    finally:
        home.unlock()


def kept(folder: Path) -> set[str]:
    """What a join left behind."""
    return {path.name for path in folder.iterdir()} - {"agent.lock"}


def content(certificate: bytes) -> Certificate:
    return unpack(read_envelope(certificate).body, Certificate, 4096)


# The joiner.


async def test_a_member_with_roles_labels_and_seeds(mesh: Mesh, tmp_path: Path) -> None:
    async with mesh.listening():
        token = mesh.invite(roles=("member", "voter", "actor"))
        member = await joiner(tmp_path / "b", token, "b", (("rack", "1"), ("site", "x")))
        assert member.mesh_id == mesh.member.mesh_id and member.chain == mesh.member.chain
        assert member.seeds == ((HERE, 7963),)
        certificate = content(member.certificate)
        assert certificate.roles == ("member", "voter", "actor") and certificate.name == "b"
        assert dict(certificate.labels) == {"rack": "1", "site": "x"}
        assert node_of(member.leaf) == member.identity.id == certificate.node
        secret = parse_token(token).secret
        for path in [*(tmp_path / "a").iterdir(), *(tmp_path / "b").iterdir()]:
            assert secret not in path.read_bytes(), f"the secret lies in {path}"


async def test_the_next_address_when_the_first_is_dead(mesh: Mesh, tmp_path: Path) -> None:
    with socket.socket() as bound:
        bound.bind((HERE, 0))
        async with mesh.listening():
            token = mesh.invite(bound.getsockname(), mesh.address)
            assert (await joiner(tmp_path / "b", token)).name == "b"


async def test_the_secret_never_goes_to_another_mesh(mesh: Mesh, tmp_path: Path) -> None:
    other = Mesh(tmp_path / "other")
    mesh.store.close()
    async with other.listening():
        token = _foreign_token(mesh, other.address)
        with pytest.raises(ValueError, match="of another mesh .* secret was not sent"):
            await joiner(tmp_path / "b", token)
        assert other.bodies == [] and kept(tmp_path / "b") == set()


def _foreign_token(mesh: Mesh, address: tuple[str, int]) -> str:
    rng = random.SystemRandom()
    return make_invite(rng, mesh.member.mesh_id, mesh.member.identity.id, (address,), ("member",), 1, read_clock().wall_ms + HOUR_MS)[0]


@pytest.mark.parametrize("leaf", ["self-made", "a member's"])
async def test_the_secret_never_goes_to_another_key(mesh: Mesh, tmp_path: Path, leaf: str) -> None:
    """The chain is public, so an impostor shows the right one; the key it cannot have."""
    impostor = Identity(b"i" * 32)
    issuer = mesh.member if leaf == "a member's" else Mesh(tmp_path / "other").member
    _, shown = certify(issuer.identity, issuer.roster, issuer.mesh_id, impostor.id, "i", ("member",), (), read_clock())
    async with mesh.listening(leaf=shown, key=impostor):
        with pytest.raises(ValueError, match="not the issuer of this invite; the secret was not sent"):
            await joiner(tmp_path / "b", mesh.invite())
        assert mesh.bodies == [] and kept(tmp_path / "b") == set()


async def test_a_chain_cut_or_forged_is_found(mesh: Mesh, tmp_path: Path) -> None:
    forged = bytearray(mesh.member.chain[0])
    forged[-1] ^= 1
    async with mesh.listening(chain=(bytes(forged),)):
        with pytest.raises(ValueError, match="secret was not sent"):
            await joiner(tmp_path / "b", mesh.invite())
        assert mesh.bodies == []


@pytest.mark.parametrize("wrong", ["certificate", "leaf", "mesh", "nothing", "garbage", "forged"])
async def test_an_answer_that_is_not_for_us_is_not_kept(mesh: Mesh, tmp_path: Path, wrong: str) -> None:
    other = Mesh(tmp_path / "other")
    other.store.close()

    async def answer(body: bytes, source: str) -> bytes:
        honest = unpack(await mesh.answer(body, source), JoinReply, 1 << 20)
        stranger = Identity(b"s" * 32).id
        member = other.member if wrong == "mesh" else mesh.member
        node = content(honest.certificate).node if wrong == "mesh" else stranger
        certificate, leaf = certify(member.identity, member.roster, member.mesh_id, node, "b", ("member",), (), read_clock())
        forged = honest.certificate[:-1] + bytes([honest.certificate[-1] ^ 1])
        replies = {
            "certificate": msgspec.structs.replace(honest, certificate=certificate),
            "leaf": msgspec.structs.replace(honest, leaf=leaf),
            "mesh": msgspec.structs.replace(honest, certificate=certificate),
            "forged": msgspec.structs.replace(honest, certificate=forged),
        }
        return pack(replies[wrong]) if wrong in replies else b"" if wrong == "nothing" else b"\xff" * 99

    async with mesh.listening(answer):
        with pytest.raises(ValueError, match="the issuer's answer is not usable") as error:
            await joiner(tmp_path / "b", mesh.invite())
        assert "\n" not in str(error.value) and kept(tmp_path / "b") == set()


# The issuer.


async def test_expired_by_the_token_is_not_even_asked(mesh: Mesh, tmp_path: Path) -> None:
    async with mesh.listening():
        token = mesh.invite(token_ms=-1)
        with pytest.raises(ValueError, match="expired; ask for a new one"):
            await joiner(tmp_path / "b", token)
        assert mesh.bodies == []


async def test_what_the_issuer_knows_counts(mesh: Mesh, tmp_path: Path) -> None:
    async with mesh.listening():
        expired = mesh.invite()
        (row,) = mesh.store.rows("invites")
        mesh.store.write([Put("invites", {"secret_hash": row["secret_hash"], "expires_ms": read_clock().wall_ms - 1})])
        with pytest.raises(ValueError, match="the invite has expired"):
            await joiner(tmp_path / "b", expired)
        with pytest.raises(ValueError, match="not known here"):
            await joiner(tmp_path / "b", _foreign_token(mesh, mesh.address))
        once = mesh.invite()
        assert (await joiner(tmp_path / "b", once, "b")).name == "b"
        with pytest.raises(ValueError, match="used up"):
            await joiner(tmp_path / "c", once, "c")
        assert kept(tmp_path / "c") == set()
        # Whoever was refused has no name taken.
        assert (await joiner(tmp_path / "c", mesh.invite(), "c")).name == "c"


async def test_a_name_is_given_once(mesh: Mesh, tmp_path: Path) -> None:
    async with mesh.listening():
        token = mesh.invite(uses=10)
        with pytest.raises(ValueError, match="'a' is taken"):
            await joiner(tmp_path / "b", token, "a")
        both = await asyncio.gather(joiner(tmp_path / "b", token, "b"), joiner(tmp_path / "c", token, "b"), return_exceptions=True)
        refused = [outcome for outcome in both if isinstance(outcome, Exception)]
        assert len(refused) == 1 and "'b' is taken" in str(refused[0])
        # Neither is up: the issuer has only its own word for it, also after a restart.
        mesh.issuer = Issuer(mesh.member, mesh.store, mesh.address)
        with pytest.raises(ValueError, match="'b' is taken"):
            await joiner(tmp_path / "d", token, "b")
        assert mesh.uses_left() == [9]


@pytest.mark.parametrize(
    ("name", "labels"), [("B", ()), ("", ()), ("x" * 64, ()), ("b", (("", ""),)), ("b", (("A", "b"),)), ("b", (("k", "v"), ("k", "v")))]
)
async def test_what_cannot_be_certified_costs_no_use(mesh: Mesh, tmp_path: Path, name: str, labels: tuple[tuple[str, str], ...]) -> None:
    async with mesh.listening():
        with pytest.raises(ValueError, match="refused"):
            await joiner(tmp_path / "b", mesh.invite(), name, labels)
        assert mesh.uses_left() == [1]


async def test_an_issuer_without_a_clock_waits(mesh: Mesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with mesh.listening():
        now = read_clock()
        token = mesh.invite()
        monkeypatch.setattr(joining, "read_clock", lambda: Instant(now.boot_ns, now.wall_ns, wall_trusted=False))
        with pytest.raises(ValueError, match="clock is not set"):
            await joiner(tmp_path / "b", token)
        assert mesh.uses_left() == [1]


async def test_a_request_signed_for_another_mesh_is_refused(mesh: Mesh, tmp_path: Path) -> None:
    async with mesh.listening():
        secret = parse_token(mesh.invite()).secret
        body = pack(joining.JoinRequest(secret, "b", ()))
        stranger = Identity(b"s" * 32)
        for wrong in (seal(stranger, "join", bytes(32), body), seal(stranger, "hello", mesh.member.mesh_id, body), b"", body):
            with pytest.raises(RemoteProtocolError):
                await mesh.issuer.answer(wrong, [])
        assert mesh.uses_left() == [1]


def test_this_hosts_name_is_a_nodes_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for host, name in (("Edge_07.example.net", "edge-07"), ("-", "node"), ("ünïcode", "n-code"), ("x" * 80, "x" * 63)):
        monkeypatch.setattr(socket, "gethostname", lambda host=host: host)
        assert default_name() == name
