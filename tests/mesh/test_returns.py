"""Finding each other again from what was stored, whatever happened meanwhile."""

from cloudisense.keys.identity import Identity, node_text
from cloudisense.keys.testing import HashRng
from cloudisense.mesh.address import address_text, reachable
from cloudisense.mesh.events import NameConflict
from cloudisense.mesh.naming import shown_names
from cloudisense.sim.meshes import Meshes


def together(count: int) -> Meshes:
    world = Meshes(count)
    assert world.run(5, world.whole)
    world.run(3)
    return world


def test_nobody_there_and_it_keeps_trying_and_keeps_its_own_feed() -> None:
    world = together(3)
    alone, others = world[1], [world[0], world[2]]
    for host in others:
        host.vanished = True
    world.kill(alone)
    world.start(alone, seeds=())
    world.run(700)
    sent = world.network.datagrams
    world.run(60)
    assert world.network.datagrams > sent
    alone.live().append("alert", b"I serve myself", world.clock.instant())
    world.settle(alone)
    world.run(1)
    assert [e.body for e in alone.live().feeds.all()] == [b"I serve myself"]
    for host in others:
        host.vanished = False
    assert world.run(90, world.whole)
    assert world.run(10, lambda: len(others[0].live().feeds.all()) == 1)


def test_long_away_when_the_others_try_only_now_and_then() -> None:
    """Past ``lost_eager_ms`` nothing changes any more, so this is also the month away."""
    world = together(3)
    away = world[2]
    world.kill(away)
    away.vanished = True
    world.run(world.limits.lost_eager_ms / 1000 + 60)
    away.vanished = False
    world.start(away, seeds=())
    assert world.seconds_until(world.whole, 60) < 5


def test_every_address_but_one_has_changed() -> None:
    world = together(4)
    for host in world.hosts:
        world.kill(host)
    for i, host in enumerate(world.hosts[:3]):
        world.move(host, (f"10.9.9.{i + 1}", 7963))
    for host in world.hosts:
        world.start(host, seeds=())
    assert world.seconds_until(world.whole, 120) < 60


def test_two_of_one_name_are_told_of() -> None:
    world = together(2)
    third = world.add("n3")
    again = world.keys.member("x")
    from cloudisense.keys.certificate import Certificate, issue
    from cloudisense.keys.testing import NOT_AFTER_MS, NOT_BEFORE_MS, TestMember

    later = Certificate(again.identity.id, "n3", ("member",), (), NOT_BEFORE_MS + 1, NOT_AFTER_MS, world.keys.issuer.id)
    twin = TestMember(again.identity, issue(world.keys.issuer, world.keys.mesh_id, later), again.leaf, again.session_key)
    fourth = world.add("n3", member=twin)
    assert world.run(5, world.whole)
    for host in (third, fourth):
        told = [item for _, item in host.news if isinstance(item, NameConflict)]
        assert len(told) == 1 and {told[0].node, told[0].other} == {third.id, fourth.id}
    given = [(fourth.id, "n3", NOT_BEFORE_MS + 1), (third.id, "n3", NOT_BEFORE_MS), (world[0].id, "n1", NOT_BEFORE_MS)]
    shown = shown_names(given)
    assert shown == {third.id: "n3", fourth.id: f"n3~{node_text(fourth.id)[:4]}", world[0].id: "n1"}


def test_names_do_not_depend_on_order() -> None:
    nodes = [Identity.generate(HashRng(str(i))).id for i in range(3)]
    given = [(node, "same", 7) for node in nodes]
    assert shown_names(given) == shown_names(reversed(given))
    assert sorted(len(name) for name in shown_names(given).values()) == [4, 9, 9]


def test_addresses_that_others_cannot_use_are_refused() -> None:
    good = [("10.0.0.1", 1), ("127.0.0.1", 7963), ("::1", 7963), ("2001:db8::1", 65535)]
    bad = [("fe80::1", 7963), ("fe80::1%eth0", 7963), ("169.254.1.1", 7963), ("0.0.0.0", 1), ("::", 1), ("224.0.0.251", 5353)]
    bad += [("host.example", 7963), ("", 7963), ("10.0.0.1", 0), ("10.0.0.1", 65536)]
    assert all(reachable(address) for address in good)
    assert not any(reachable(address) for address in bad)
    assert address_text(("::1", 7963)) == "[::1]:7963"
    assert address_text(("10.0.0.1", 7963)) == "10.0.0.1:7963"


def test_a_claim_with_a_link_local_address_is_refused() -> None:
    world = together(2)
    bad = world.add("n3", address=("fe80::3", 7963))
    world.run(5)
    assert world.state(world[0], bad) == "unknown"
    assert world[0].live().dropped["malformed alive claim"] > 0


def test_a_batch_of_fifty_sees_itself_whole_within_a_second() -> None:
    world = Meshes(50)
    assert world.seconds_until(world.whole, 10) < 1
