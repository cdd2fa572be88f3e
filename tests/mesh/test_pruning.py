"""Checkpoints: any interleaving of append, checkpoint, prune, crash and late joiner converges and verifies."""

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloudisense.keys.testing import issue_for_tests
from cloudisense.mesh.checkpoint import NO_FOLD, Bundle, Checkpoint, check_bundle, cosign, fold, state
from cloudisense.mesh.feed import Feeds, parse_entry
from cloudisense.mesh.instant import NS_PER_MS, Instant
from cloudisense.mesh.limits import LAN
from cloudisense.mesh.pruning import cut
from cloudisense.mesh.wire import Bundles, encode
from cloudisense.sim.meshes import Host, Meshes
from cloudisense.sim.network import Weather

SMALL = replace(LAN, keep_entries=4, keep_generations=2, checkpoint_ms=3_600_000, lost_patient_ms=2000, suspicion_ms=400)


def feeds_of(node: Host) -> Feeds:
    assert node.mesh is not None
    return node.mesh.feeds


def converged(world: Meshes) -> bool:
    up = [node for node in world.hosts if node.mesh is not None]
    views = [(feeds_of(n).vector(), n.mesh.pruner.bases() if n.mesh else (), feeds_of(n).durable_sum) for n in up]
    return all(view == views[0] for view in views)


def stand_alone(node: Host, world: Meshes) -> None:
    """What lies on the disk verifies from where each feed begins, by itself."""
    assert node.mesh is not None
    feeds = node.mesh.feeds
    for author, generation, _ in feeds.vector():
        place, entries = feeds.place(author), [e for e in feeds.of(author) if e.reference.generation == generation]
        expected = place[1] if place[0] == generation else 0
        head = bytes(32)
        if expected:
            checkpoint, signers = check_bundle(node.mesh.pruner.bundles[author], world.keys.mesh_id)
            assert checkpoint.place == place and signers
            head = checkpoint.head
        for entry in entries:
            parsed, previous = parse_entry(entry.data, world.keys.mesh_id, LAN.entry_bytes)
            assert parsed.reference.number == expected and previous == head
            expected, head = expected + 1, parsed.hash
    kept = {r["node"]: (r["generation"], r["number"]) for r in node.disk.rows("checkpoints")}
    assert kept == {author: feeds.place(author) for author in node.mesh.pruner.bundles}
    rows = {(r["node"], r["generation"], r["number"]) for r in node.disk.rows("entries")}
    assert rows == {(e.node, e.reference.generation, e.reference.number) for e in feeds.all()}


def test_three_nodes_prune_and_a_late_joiner_gets_checkpoint_and_rest() -> None:
    world = Meshes(0, 1, SMALL)
    first = world.add()
    for _ in range(2):
        world.add()
    world.run(5)
    for i in range(10):
        world.append(first, "note", b"%d" % i)
    world.run(3)
    world.propose(first)
    world.run(5)
    assert [len(feeds_of(n).of(first.member.identity.id)) for n in world.hosts] == [4, 4, 4]
    late = world.add()
    world.run(10)
    assert converged(world) and len(feeds_of(late).of(first.member.identity.id)) == 4
    for node in world.hosts:
        stand_alone(node, world)


def test_boots_do_not_grow_the_vector_for_ever() -> None:
    world = Meshes(0, 2, SMALL)
    first = world.add()
    for _ in range(2):
        world.add()
    world.run(3)
    for _ in range(8):
        world.append(first, "note", b"up")
        world.run(1)
        world.kill(first)
        world.run(1)
        world.start(first)
        world.run(4)
        world.propose(first)
        world.run(3)
    assert converged(world)
    assert max(len(feeds_of(n).vector()) for n in world.hosts) <= SMALL.keep_generations + 1


def test_nothing_unfinished_is_pruned() -> None:
    world = Meshes(0, 3, SMALL)
    first = world.add()
    others = [world.add(), world.add()]
    world.run(3)
    for node in world.hosts:
        assert node.mesh is not None
        node.mesh.pruner.unfinished = lambda entry: entry.body == b"open"
    for i in range(10):
        world.append(first, "note", b"open" if i == 2 else b"x")
    world.run(3)
    world.propose(first)
    world.run(3)
    own = first.member.identity.id
    assert all(feeds_of(n).place(own)[1] == 2 for n in world.hosts)
    # The author alone may not decide it: co-signers refuse what is unfinished for them.
    assert first.mesh is not None and others[0].mesh is not None
    first.mesh.pruner.unfinished = lambda entry: False
    world.propose(first)
    world.run(3)
    assert all(feeds_of(n).place(own)[1] == 2 for n in world.hosts)
    assert others[0].mesh.dropped["checkpoint not co-signed"] == 1


def test_an_author_alone_cannot_cut_its_history() -> None:
    world = Meshes(0, 4, SMALL)
    first, second = world.add(), world.add()
    third = world.add()
    world.run(3)
    for i in range(6):
        world.append(first, "note", b"%d" % i)
    world.run(3)
    feeds, own = feeds_of(first), first.member.identity
    covering = feeds.covering(own.id, (feeds.of(own.id)[0].reference.generation, 3))
    assert covering is not None
    forged = Checkpoint(own.id, covering.generation, 3, covering.head, NO_FOLD)
    for checkpoint, signers in (
        (covering, []),
        (covering, [first]),  # its own word twice
        (forged, []),
    ):
        statement = state(own, world.keys.mesh_id, checkpoint)
        bundle = Bundle(statement, tuple(cosign(n.member.identity, world.keys.mesh_id, statement) for n in signers))
        late = world.add()
        world.run(3)
        world.inject(late, first, encode(Bundles((bundle,))))
        assert feeds_of(late).place(own.id) == (0, 0)
        assert late.mesh is not None and late.mesh.dropped["checkpoint without enough co-signers"] >= 1
    # One that contradicts what we hold is refused whoever has signed it.
    lie = Checkpoint(own.id, covering.generation, 3, bytes(32), covering.fold)
    statement = state(own, world.keys.mesh_id, lie)
    bundle = Bundle(statement, tuple(cosign(n.member.identity, world.keys.mesh_id, statement) for n in (second, third)))
    world.inject(second, first, encode(Bundles((bundle,))))
    assert feeds_of(second).place(own.id) == (0, 0)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(0, 3)),
        st.tuples(st.just("append"), st.integers(0, 3)),
        st.tuples(st.just("propose"), st.integers(0, 3)),
        st.tuples(st.just("crash"), st.integers(0, 3)),
        st.tuples(st.just("start"), st.integers(0, 3)),
        st.tuples(st.just("join"), st.just(0)),
        st.tuples(st.just("wait"), st.integers(1, 40)),
    ),
    min_size=5,
    max_size=40,
)


def step(world: Meshes, what: str, n: int) -> None:
    node = world.hosts[n % len(world.hosts)]
    match what:
        case "append":
            for i in range(3):
                world.append(node, "note", bytes([i]) * (20 if i else 700))
        case "propose":
            world.propose(node)
        case "crash":
            world.kill(node)
        case "start" if node.mesh is None:
            world.start(node)
        case "join" if len(world.hosts) < 5:
            world.add()
        case "wait":
            world.run(n / 10)
        case _:
            pass


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 1 << 30), loss=st.sampled_from([0.0, 0.1]), steps=STEPS)
def test_any_interleaving_converges_and_verifies(seed: int, loss: float, steps: list[tuple[str, int]]) -> None:
    world = Meshes(0, seed, SMALL, Weather(loss=loss, duplicate=loss))
    for _ in range(3):
        world.add()
    world.run(3)
    for what, n in steps:
        step(world, what, n)
    for node in world.hosts:
        if node.mesh is None:
            world.start(node)
    for _ in range(12):
        world.run(5)
        if converged(world):
            break
    assert converged(world)
    for node in world.hosts:
        assert node.mesh is not None and not node.mesh.forgers.proofs
        stand_alone(node, world)


def entries(world: Meshes, count: int, wall_ms: int, generation: int = 1) -> Feeds:
    feeds, identity = Feeds(world.keys.mesh_id, LAN), world.keys.member("x").identity
    for _ in range(count):
        feeds.append(identity, generation, wall_ms, "note", b"")
    return feeds


@pytest.mark.parametrize(("count", "age_days", "place"), [(5, 0, None), (6, 0, (1, 2)), (3, 29, None), (3, 32, (1, 3))])
def test_what_is_too_much_or_too_old(count: int, age_days: int, place: tuple[int, int] | None) -> None:
    world = Meshes(0, 5)
    now = Instant(0, 1_800_000_000_000 * NS_PER_MS)
    feeds = entries(world, count, now.wall_ms - age_days * 86_400_000)
    assert cut(feeds.all(), lambda entry: False, SMALL, now) == place


def test_the_fold_can_be_computed_in_two_parts() -> None:
    keys = issue_for_tests(1)
    feeds, identity = Feeds(keys.mesh_id, LAN), keys.member("x").identity
    made = [feeds.append(identity, 1, 0, "note", bytes([i])) for i in range(6)]
    feeds.made_durable(made)
    hashes = [(1, i, entry.hash) for i, entry in enumerate(made)]
    half = feeds.covering(identity.id, (1, 2))
    assert half is not None and half.fold == fold(NO_FOLD, hashes[:2])
    feeds.collapse(half)
    whole = feeds.covering(identity.id, (1, 5))
    assert whole is not None and whole.fold == fold(half.fold, hashes[2:5]) and feeds.count == 4
