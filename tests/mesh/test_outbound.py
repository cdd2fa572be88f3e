"""The one way out."""

from cloudisense.keys.errors import LocalProtocolError
from cloudisense.keys.session import SessionKey, Sessions
from cloudisense.keys.testing import HashRng
from cloudisense.mesh.effects import Persist, Put, Send, SendBulk
from cloudisense.mesh.events import DirectReceived
from cloudisense.mesh.instant import NS_PER_MS, Instant
from cloudisense.mesh.limits import Limits
from cloudisense.mesh.outbound import Outbound
from cloudisense.mesh.wire import Direct, encode

US, THEM, MESH, HERE = b"u" * 32, b"t" * 32, b"m" * 32, ("10.0.0.2", 1)
NOW = Instant(10**9, 10**18)


def outbound() -> tuple[Outbound, Sessions]:
    ours, theirs = SessionKey.generate(HashRng("ours")), SessionKey.generate(HashRng("theirs"))
    us, them = Sessions(US, MESH, ours), Sessions(THEM, MESH, theirs)
    us.learn(THEM, theirs.public, NOW)
    them.learn(US, ours.public, NOW)
    return Outbound(us, Limits()), them


def test_small_messages_are_sealed_larger_ones_stream_and_the_largest_are_dropped() -> None:
    out, them = outbound()
    room = Limits().datagram_bytes - len(encode(Direct(bytes(1000)))) + 1000
    for size in (room, room + 1, Limits().bulk_bytes):
        out.send(THEM, HERE, Direct(bytes(size)))
    sealed, stream = out.poll_effects()
    assert isinstance(sealed, Send)
    assert sealed.address == HERE
    assert them.open(sealed.data, NOW) == (US, encode(Direct(bytes(room))))
    assert len(sealed.data) <= 1280 - 40 - 8, "with headers of IPv6 and UDP it fits every path"
    assert stream == SendBulk(THEM, HERE, encode(Direct(bytes(room + 1))))
    assert out.dropped == {"message too large to send": 1}
    assert out.poll_effects() == []


def test_what_waits_for_a_write_runs_once_and_only_for_its_token() -> None:
    out, _ = outbound()
    ran: list[int] = []
    out.persist((Put("meta", {"key": "a", "value": 1}),), lambda now: ran.append(1))
    out.persist((Put("meta", {"key": "b", "value": 1}),), lambda now: ran.append(2))
    out.persist((Put("meta", {"key": "c", "value": 1}),))
    tokens = [effect.token for effect in out.poll_effects() if isinstance(effect, Persist)]
    assert tokens[2] == 0
    assert len(set(tokens)) == 3
    for token in (tokens[1], 0, 999, tokens[1]):
        out.persisted(token, NOW)
    assert ran == [2]


def test_once_is_once_a_period_and_forgets_rather_than_grows() -> None:
    out, _ = outbound()
    later = Instant(NOW.boot_ns + 100 * NS_PER_MS, NOW.wall_ns)
    assert [out.once("a", now, 100) for now in (NOW, NOW, later)] == [True, False, True]
    for i in range(3 * Limits().members):
        out.once(i, NOW, 100)
    assert len(out._last) <= Limits().members


def test_news_and_effects_are_given_once() -> None:
    out, _ = outbound()
    out.tell(DirectReceived(THEM, b"1"), DirectReceived(THEM, b"2"))
    assert [item.body for item in out.poll_news() if isinstance(item, DirectReceived)] == [b"1", b"2"]
    assert out.poll_news() == []


def test_a_message_to_whom_we_do_not_know_is_our_bug() -> None:
    out, _ = outbound()
    try:
        out.send(b"x" * 32, HERE, Direct(b""))
    except LocalProtocolError:
        return
    raise AssertionError("sealed for nobody")
