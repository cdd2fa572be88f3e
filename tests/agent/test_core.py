"""The agent as a whole: what comes in from outside never breaks it."""

import pytest

from cloudisense.agent.core import Agent
from cloudisense.agent.effects import Notify, RequestPlan, Sample
from cloudisense.agent.entries import KIND_OF
from cloudisense.agent.node import Node
from cloudisense.agent.settings import Settings
from cloudisense.keys.capability import Capability
from cloudisense.keys.encoding import pack
from cloudisense.keys.errors import LocalProtocolError
from cloudisense.keys.testing import HashRng
from cloudisense.mesh.core import Mesh
from cloudisense.mesh.effects import Persist, Put
from cloudisense.mesh.events import DirectReceived, EntryArrived, MemberChanged, Persisted
from cloudisense.mesh.instant import NS_PER_MS, NS_PER_S, Instant
from cloudisense.mesh.limits import Limits
from cloudisense.mesh.stored import Stored

WALL_NS = 1_767_225_600_000 * NS_PER_MS


def at(ms: int) -> Instant:
    return Instant(ms * NS_PER_MS, WALL_NS + ms * NS_PER_MS)


def agent_of(rig, entries: tuple[bytes, ...] = (), **settings) -> Agent:
    """The agent of the node ``other``, which helps and has no file system of its own to watch."""
    member = rig.keys.member("other")
    stored = Stored("other", ("10.0.0.3", 1), 1, 1, entries=entries)
    mesh = Mesh(member.identity, member.certificate, rig.keys.chain, Limits(), HashRng("m"), stored)
    return Agent(mesh, b"b" * 16, type(rig.catalogue)((), ()), Settings(**settings), HashRng("a"))


def tell(agent: Agent, rig, body, who=None, ms: int = 0, **more) -> list:
    kind = "capability" if isinstance(body, Capability) else KIND_OF[type(body)]
    entry = rig.feeds.append(who or rig.subject, more.get("generation", 1), rig.wall_ms, kind, pack(body))
    agent.handle_news(EntryArrived(entry), at(ms))
    return agent.poll_effects()


def test_junk_in_entries_is_counted(rig) -> None:
    agent = agent_of(rig)
    for kind in ("alert", "capability", "closed", "escalation"):
        agent.handle_news(EntryArrived(rig.feeds.append(rig.subject, 1, 0, kind, b"\xc1")), at(0))
    agent.handle_news(EntryArrived(rig.feeds.append(rig.subject, 1, 0, "of the future", b"\xc1")), at(0))
    assert sum(agent._mesh.dropped.values()) == 4
    assert agent.incidents == {} and agent.poll_effects() == []


def test_junk_in_direct_messages_is_counted(rig) -> None:
    agent = agent_of(rig)
    node = Node(agent._mesh, agent)
    agent._mesh._out.tell(DirectReceived(rig.subject.id, b"junk"))
    node.command(lambda: None, at(0))
    assert agent._mesh.dropped["malformed message"] == 1


def test_every_word_is_kept_in_a_row_and_told(rig) -> None:
    agent = agent_of(rig)
    effects = tell(agent, rig, rig.alert())
    assert [e.topic for e in effects if isinstance(e, Notify)] == ["alert"]
    [persist] = [e for e in effects if isinstance(e, Persist)]
    assert [(put.table, put.row["state"]) for put in persist.rows if isinstance(put, Put)] == [("incidents", "open")]
    assert tell(agent, rig, rig.intent()) == [], "what changes nothing is not told"


def test_a_call_for_help_that_comes_before_its_alert_is_answered(rig) -> None:
    agent = agent_of(rig, model=True)
    assert tell(agent, rig, rig.help(1, 2, 3), generation=2) == []
    assert [type(e) for e in tell(agent, rig, rig.alert()) if isinstance(e, RequestPlan)] == [RequestPlan]


@pytest.mark.parametrize("answered", [False, True])
def test_a_call_for_help_from_before_the_restart(rig, answered: bool) -> None:
    """Answered now, unless it was answered then."""
    entries = [rig.entry(rig.subject, rig.alert()), rig.entry(rig.subject, rig.help(1, 2, 3))]
    if answered:
        entries.append(rig.entry(rig.other, rig.offer(2)))
    agent = agent_of(rig, tuple(e.data for e in entries), model=True)
    agent.start(at(0))
    assert [isinstance(e, RequestPlan) for e in agent.poll_effects()].count(True) == (not answered)


def test_a_host_that_is_gone(rig) -> None:
    """Its peers wait for it to come back, and then tell people, once."""
    agent = agent_of(rig)
    tell(agent, rig, rig.alert())
    agent.handle_news(MemberChanged(rig.subject.id, "dead"), at(0))
    deadline = agent.next_deadline()
    assert deadline is not None and 15 * NS_PER_S <= deadline <= 20 * NS_PER_S
    for _ in range(2):
        agent.handle_timer(Instant(deadline, WALL_NS))
    persists = [e for e in agent._mesh.poll_effects() if isinstance(e, Persist)]
    assert len(persists) == 1
    agent._mesh.handle_event(Persisted(persists[0].token), at(1))
    for news in agent._mesh.poll_news():
        agent.handle_news(news, at(1))
    assert agent.incidents[rig.incident].over
    assert agent.next_deadline() is None


def test_an_unknown_timer_is_our_bug(rig) -> None:
    agent = agent_of(rig)
    agent._requests.after("what", at(0), 0)
    with pytest.raises(LocalProtocolError, match="unknown timer"):
        agent.handle_timer(at(0))


def test_a_node_without_file_systems_asks_nothing_of_its_host(rig) -> None:
    agent = agent_of(rig)
    agent.start(at(0))
    agent.handle_timer(at(10_000))
    assert not any(isinstance(e, Sample) for e in agent.poll_effects())
