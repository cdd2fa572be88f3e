"""Bursts are cheap, slow members are not pressed, a lone entry never waits."""

from hypothesis import given
from hypothesis import strategies as st

from cloudisense.mesh.dissemination import Outbox, Piggyback, Shipment
from cloudisense.mesh.events import EntryArrived
from cloudisense.mesh.feed import Reference
from cloudisense.mesh.gather import HEADROOM, batches
from cloudisense.mesh.limits import LAN
from cloudisense.mesh.wire import Push, encode
from cloudisense.sim.meshes import Meshes


@given(sizes=st.lists(st.integers(1, 8192), max_size=80))
def test_batches_keep_order_and_fit(sizes: list[int]) -> None:
    entries = [bytes(size) for size in sizes]
    made = batches(entries, LAN)
    assert [e for batch in made for e in batch] == entries
    limit = LAN.datagram_bytes if all(size < LAN.datagram_bytes - HEADROOM - 5 for size in sizes) else LAN.bulk_bytes
    assert all(len(encode(Push(batch, answer=True))) <= limit for batch in made)


def test_a_burst_of_50_is_a_few_datagrams_per_member() -> None:
    world = Meshes(0, 1)
    first = world.add()
    others = [world.add() for _ in range(7)]
    world.run(5)
    idle = world.network.datagrams
    world.run(1)
    idle = world.network.datagrams - idle
    before = world.network.datagrams
    for i in range(50):
        world.append(first, "note", b"%d" % i)
    world.run(1)
    assert all(len(world.told(node, EntryArrived)) == 50 for node in others)
    # One by one it was 50 pushes and 50 answers for each of seven.
    assert world.network.datagrams - before - idle < 7 * 100 * 2 // 3


def test_a_lone_entry_leaves_at_once() -> None:
    world = Meshes(0, 2)
    first, other = world.add(), world.add()
    world.run(5)
    world.append(first, "note", b"now")
    world.run(0.012)  # two syncs of at most 5 ms, one way of at most 2 ms
    assert world.told(other, EntryArrived)


def test_the_outbox_is_bounded_and_forgets_the_oldest() -> None:
    outbox = Outbox()
    for number in range(10):
        outbox.make_room(4)
        outbox.open[Reference(b"x", 1, number)] = Shipment(b"", {b"y"})
    assert [reference.number for reference in outbox.open] == [6, 7, 8, 9]


def test_the_piggyback_is_bounded_and_keeps_what_was_sent_least() -> None:
    piggyback = Piggyback(limit=3)
    for author in range(3):
        piggyback.add(b"x", bytes([author]), (b"c", b""))
    piggyback.take(1000, 9)
    piggyback.add(b"y", b"y", (b"new", b""))
    assert len(piggyback) == 3 and piggyback.take(12, 9)[0] == (b"new", b"")


def test_a_mute_member_is_not_pressed_with_all_that_it_lacks() -> None:
    world = Meshes(0, 3)
    first, other = world.add(), world.add()
    world.run(5)
    world.network.partition(first.address, other.address)
    before = world.network.bytes
    for i in range(400):
        world.append(first, "note", b"%d" % i)
    world.run(8)
    # 400 entries of 190 bytes, six times, would be 456 kB.
    assert world.network.bytes - before < 250_000
    world.network.heal()
    world.run(20)
    assert len(world.told(other, EntryArrived)) == 400
