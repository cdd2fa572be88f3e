"""Real agents on real hosts: what each kind of trouble makes the others say, and that the mesh heals."""

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from typing import Any

import pytest

from benchmarks.hosts import Host, World, wait_for
from benchmarks.hosts.host import end_process, python
from benchmarks.mesh.ours import Ours
from benchmarks.mesh.peer import GONE, KNOWN_GONE, Seat, now_ns

MakeWorld = Callable[[int], World]
MakeMesh = Callable[[int], Ours]

KNOWN_S = 40.0
"""How long anything may take to be known; how fast it is, the benchmark measures."""
HEAL_S = 30.0
DOUBT_S = 4.0


def pid(seat: Seat) -> int:
    assert seat.process is not None
    return seat.process.pid


def wrongly_gone(mesh: Ours, since_ns: int, *names: str) -> list[str]:
    """Who was given up although it is not one of ``names``, except by one of those."""
    return [
        f"{sight.observer}: {sight.subject} is {sight.state}"
        for sight in mesh.since(since_ns)
        if sight.state in GONE and sight.subject not in names and sight.observer not in names
    ]


def doubted_s(mesh: Ours, since_ns: int) -> float:
    """Seconds for which anyone was suspected by anyone, all views together."""
    total, began = 0, {}
    for sight in mesh.since(since_ns):
        view = (sight.observer, sight.subject)
        if sight.state == "suspect":
            began.setdefault(view, sight.at_ns)
        elif view in began:
            total += sight.at_ns - began.pop(view)
    return (total + sum(now_ns() - at_ns for at_ns in began.values())) / 1e9


def everyone_says(mesh: Ours, name: str, words: frozenset[str]) -> Callable[[], bool]:
    return lambda: all(seat.view.get(name) in words for seat in mesh.others(name))


def test_hosts_join_by_invite_over_the_bridge(make_world: MakeWorld) -> None:
    """The whole way that a person goes: init, up, invite, join, up, on three hosts, with one invite for two."""
    world = make_world(3)
    agents: list[subprocess.Popen[bytes]] = []
    said: dict[str, list[dict[str, str]]] = {host.name: [] for host in world.hosts}

    def cli(host: Host, *words: str) -> Any:
        done = host.run(python("cloudisense", words[0], "--state", str(host.folder / "state"), "--json", *words[1:]))
        assert done.returncode == 0, done.stderr.decode()
        return json.loads(done.stdout)

    def up(host: Host) -> None:
        agent = host.spawn(python("cloudisense", "up", "--state", str(host.folder / "state"), "--json"), stdout=subprocess.PIPE)
        agents.append(agent)
        assert agent.stdout is not None
        world.output.take(agent.stdout, lambda line: said[host.name].append(json.loads(line.text)))
        assert wait_for(lambda: any(event["topic"] == "up" for event in said[host.name]), 30)

    first, *rest = world.hosts
    cli(first, "init", "--bind", f"{first.ip}:7963")
    up(first)
    token = cli(first, "invite", "--uses", "2")["token"]
    for host in rest:
        cli(host, "join", token, "--bind", f"{host.ip}:7963")
        up(host)
    names = {host.name for host in world.hosts}
    try:
        for host in world.hosts:
            others = names - {host.name}
            assert wait_for(
                lambda others=others, host=host: others <= {e.get("node") for e in said[host.name] if e.get("state") == "alive"}, 20
            )
        assert {(row["name"], row["state"]) for row in cli(rest[1], "members")} == {(name, "alive") for name in names}
    finally:
        for agent in agents:
            assert end_process(agent) == 0, "SIGTERM is a clean end"


def test_a_host_that_is_gone_is_dead_for_all_and_only_it(make_mesh: MakeMesh) -> None:
    mesh = make_mesh(5)
    victim = mesh.seats["n3"]
    began = now_ns()
    mesh.world.kill(victim.host)
    assert wait_for(everyone_says(mesh, "n3", GONE), KNOWN_S), mesh.strangers()
    time.sleep(2)
    assert wrongly_gone(mesh, began, "n3") == []
    mesh.stop([victim], kill=True)
    mesh.world.restart(victim.host)
    mesh.start([victim])
    assert wait_for(mesh.whole, HEAL_S), mesh.strangers()


def test_a_partition_is_known_and_heals_by_itself(make_mesh: MakeMesh) -> None:
    mesh = make_mesh(5)
    left, right = [mesh.seats[name] for name in ("n1", "n2", "n3")], [mesh.seats[name] for name in ("n4", "n5")]
    began = now_ns()
    mesh.world.partition([seat.host for seat in left], [seat.host for seat in right])
    for side, other in ((left, right), (right, left)):
        for seat in side:
            assert wait_for(lambda seat=seat, other=other: all(seat.view[o.host.name] in KNOWN_GONE for o in other), KNOWN_S)
    inside = [s for s in mesh.since(began) if s.state in GONE and (s.observer in ("n4", "n5")) == (s.subject in ("n4", "n5"))]
    assert inside == [], "nobody gives up its own side"
    mesh.say(mesh.seats["n4"], "said-while-apart")
    mesh.world.heal()
    assert wait_for(mesh.whole, HEAL_S), mesh.strangers()
    assert wait_for(lambda: all("said-while-apart" in seat.heard for seat in mesh.seats.values()), HEAL_S)


def test_one_way_loss_between_two_gives_nobody_up(make_mesh: MakeMesh) -> None:
    """n1's packets to n2 vanish. Others reach both, so nobody may be given up, and suspicions must not stay."""
    mesh = make_mesh(5)
    began = now_ns()
    mesh.world.partition(mesh.seats["n1"].host, mesh.seats["n2"].host, one_way=True)
    time.sleep(8)
    assert wrongly_gone(mesh, began) == []
    doubted = doubted_s(mesh, began)
    assert doubted < DOUBT_S, "relays reach both, so a probe that fails directly must not become a suspicion again and again"
    mesh.world.heal()
    assert wait_for(mesh.whole, HEAL_S), mesh.strangers()
    assert wrongly_gone(mesh, began) == []


def test_a_stopped_agent_comes_back_and_accuses_nobody(make_mesh: MakeMesh) -> None:
    mesh = make_mesh(4)
    began = now_ns()
    mesh.world.freeze(pid(mesh.seats["n2"]))
    time.sleep(3)
    mesh.world.thaw(pid(mesh.seats["n2"]))
    assert wait_for(mesh.whole, HEAL_S), mesh.strangers()
    time.sleep(2)
    given_up = [s for s in mesh.since(began) if s.state in GONE]
    assert given_up == [], "3 s are shorter than any suspicion, and who slept must not blame the others"


def test_kill_9_and_restart(make_mesh: MakeMesh) -> None:
    mesh = make_mesh(4)
    victim = mesh.seats["n4"]
    began = now_ns()
    os.kill(pid(victim), signal.SIGKILL)
    assert wait_for(everyone_says(mesh, "n4", KNOWN_GONE), KNOWN_S), mesh.strangers()
    mesh.stop([victim])
    mesh.start([victim])
    assert wait_for(mesh.whole, HEAL_S), mesh.strangers()
    assert wrongly_gone(mesh, began, "n4") == []
    mesh.say(victim, "back-again")
    assert wait_for(lambda: all("back-again" in seat.heard for seat in mesh.seats.values()), 10)


def test_who_was_cut_off_learns_what_it_missed(make_mesh: MakeMesh) -> None:
    mesh = make_mesh(3)
    mesh.world.drop_all(mesh.seats["n3"].host)
    for number in range(5):
        mesh.say(mesh.seats["n1"], f"missed-{number}")
    assert wait_for(lambda: "missed-4" in mesh.seats["n2"].heard, 10)
    time.sleep(2)
    assert not any(word.startswith("missed") for word in mesh.seats["n3"].heard)
    mesh.world.heal()
    assert wait_for(lambda: all(f"missed-{number}" in mesh.seats["n3"].heard for number in range(5)), HEAL_S)


def test_agents_meet_over_ipv6(make_world: MakeWorld) -> None:
    world = make_world(3)
    mesh = Ours(world, random.Random(6), ipv6=True)
    try:
        mesh.start(mesh.seats.values())
        assert wait_for(mesh.whole, 30), mesh.strangers()
        mesh.say(mesh.seats["n2"], "six")
        assert wait_for(lambda: all("six" in seat.heard for seat in mesh.seats.values()), 10)
        assert world.sent()["n1"].get("udp", (0, 0))[0] > 0
    finally:
        mesh.stop(kill=True)


@pytest.mark.slow
def test_25_hosts(make_mesh: MakeMesh) -> None:
    """Two cores, 25 agents: they meet, nobody misses a word, three lost hosts are lost for all and nobody else is, they come back."""
    mesh = make_mesh(25)
    began = now_ns()
    for number in range(50):
        mesh.say(mesh.rng.choice(list(mesh.seats.values())), f"word-{number}")
        time.sleep(0.1)
    assert wait_for(lambda: all(f"word-{n}" in seat.heard for n in range(50) for seat in mesh.seats.values()), 20)
    names = ("n7", "n13", "n25")
    mesh.world.drop_all(*(mesh.seats[name].host for name in names))
    for name in names:
        assert wait_for(lambda name=name: all(seat.view[name] in GONE for seat in mesh.others(*names)), KNOWN_S), mesh.strangers()
    assert wrongly_gone(mesh, began, *names) == []
    mesh.world.heal()
    assert wait_for(mesh.whole, 60), mesh.strangers()
    assert wrongly_gone(mesh, began, *names) == []
