"""Plans that do not heal, hosts that cannot be healed, members that lie."""

from cloudisense.agent.entries import Escalation, Offer
from cloudisense.agent.plan import Plan
from cloudisense.agent.settings import Settings
from cloudisense.sim.network import Weather


def failures(s) -> list[str]:
    return [f.signature for f in s.incident().failed]


def test_a_failed_verification_brings_another_plan(stage) -> None:
    """The executor says done; the disk says no. What failed is never asked for again (H5's second half is checked too)."""
    s = stage(1, before=lambda world: world.nodes[0].host.useless.add("purge_old_files"))
    s.fill()
    assert s.until(lambda: s.in_state("failed"))
    s.subject.host.useless.clear()
    assert s.until(s.over)
    incident = s.incident()
    assert incident.state == "resolved"
    assert incident.offer.plan.signature not in failures(s) and len(failures(s)) == 1
    assert s.quiet() == []


def test_three_plans_that_do_not_heal_are_enough(stage) -> None:
    s = stage(2, before=lambda world: world.nodes[0].host.useless.add("purge_old_files"))
    incident = s.heal()
    assert (incident.state, incident.verdict) == ("escalated", "3 plans did not heal it")
    assert len(set(failures(s))) == 3
    assert s.quiet() == []


def test_the_fourth_time_in_ten_minutes_is_for_a_human(stage) -> None:
    s = stage(3)
    states = []
    for count in (1, 2, 3, 4):
        states.append(s.heal(count).state)
        s.run(5)
    assert states == ["resolved"] * 3 + ["escalated"]
    assert "back again after 3 fixes" in s.incident().verdict
    assert s.quiet() == []


def test_nothing_that_can_be_freed(stage) -> None:
    s = stage(4)
    s.subject.host.fill("/vol/data", 0.95, s.world.rng)
    s.world.canaries["n1"] = s.subject.host.canaries()
    assert s.until(s.over)
    assert (s.incident().state, s.incident().verdict) == ("escalated", "nothing in the catalogue would free enough here")
    assert s.world.ran == []
    assert s.quiet() == []


def test_a_file_system_that_cannot_be_read_is_told_once(stage) -> None:
    s = stage(5)
    s.subject.host.unreadable = "Input/output error"
    s.run(30)
    assert s.told("probe failed") == ["/vol: Input/output error"]
    s.subject.host.unreadable = ""
    assert s.heal().state == "resolved", "and it is watched again"


def test_a_file_system_that_goes_bad_during_an_incident(stage) -> None:
    s = stage(6)
    s.fill()
    assert s.until(lambda: s.in_state("granted"))
    s.subject.host.unreadable = "Input/output error"
    assert s.until(s.over)
    assert s.incident().state == "escalated"
    assert "cannot read /vol" in s.incident().verdict
    assert s.quiet() == []


def test_two_hosts_at_once(stage) -> None:
    s = stage(7, subjects=3)
    for sim in s.world.nodes:
        s.fill(sim)
    assert s.until(lambda: s.over(3), 300)
    for sim in s.world.nodes:
        assert [i.state for i in s.incidents(sim)] == ["resolved"] * 3
        assert {i.subject for i in s.incidents(sim)} == {n.member.identity.id for n in s.world.nodes}
    assert {host for host, _, _ in s.world.ran} == {"n1", "n2", "n3"}
    assert s.quiet() == []


def test_what_healed_one_host_is_known_on_another(stage) -> None:
    """Two healings elsewhere are enough for a host that never had the trouble (one is not)."""
    s = stage(8, subjects=3, before=lambda world: None)
    for count in (1, 2):
        s.fill(s.world.nodes[0])
        assert s.until(lambda count=count: s.over(count))
        s.run(5)
    third = s.world.nodes[2]
    s.fill(third)
    assert s.until(lambda: s.over(3))
    mine = [i for i in s.incidents(third) if i.subject == third.member.identity.id][-1]
    assert mine.state == "resolved"
    assert mine.offer.planner == "memory"
    assert s.quiet() == []


def test_a_disk_that_fills_again_before_anyone_looks_is_a_new_incident(stage) -> None:
    """The detector reads too seldom to see it low: the end of the incident re-arms it."""

    def seldom(world) -> None:
        world.nodes[0].settings = Settings(sample_ms=10_000, near_sample_ms=10_000)

    s = stage(9, before=seldom)
    s.fill()
    assert s.until(lambda: s.in_state("resolved"))
    s.fill()
    assert s.until(lambda: s.over(2), 60)
    assert len(s.incidents()) == 2
    assert s.quiet() == []


def test_trouble_that_goes_away_by_itself(stage) -> None:
    s = stage(10)
    s.fill()
    assert s.until(lambda: s.in_state("seeking"))
    s.subject.host.files = [f for f in s.subject.host.files if f.canary or f.folder != "/vol/scratch"]
    assert s.until(s.over)
    assert s.incident().state == "cleared"
    assert s.world.ran == []
    assert s.quiet() == []


def test_a_plan_that_works_late_needs_no_other(stage) -> None:
    """The verification failed, and a moment later the space is free after all: nobody is asked for a second plan."""
    for moment in (lambda s: s.told("measured"), lambda s: s.in_state("failed")):  # before it is measured again, and while it is
        s = stage(12, before=lambda world: world.nodes[0].host.useless.add("purge_old_files"))
        s.fill()
        assert s.until(lambda s=s, moment=moment: bool(moment(s)))
        s.subject.host.files = [f for f in s.subject.host.files if f.canary or f.folder != "/vol/scratch"]
        assert s.until(s.over)
        assert s.incident().state == "cleared"
        assert s.incident().help.round == 1
        assert not any("0.0 MB" in text for text in s.told("candidate")), "nobody looks for what frees nothing"
        assert s.quiet() == []


def test_a_guard_that_never_answers_is_escalated_in_time(stage) -> None:
    s = stage(11)
    s.fill()
    assert s.until(lambda: s.in_state("granted"))
    s.subject.gate = None
    assert s.until(s.over, 900), s.incident().state
    assert (s.incident().state, s.incident().verdict) == ("escalated", "not healed within 14 minutes")
    assert s.world.ran == []


# -- members that lie --------------------------------------------------------------------------------------------------


def lie(s, sim, change) -> None:
    """``sim`` has its say as soon as the subject asks for help, before the honest model has thought."""
    s.fill()
    assert s.until(lambda: s.incident(sim) is not None and s.incident(sim).help is not None)
    incident = s.incident(sim)
    candidate = incident.help.candidates[0]
    offer = Offer(
        incident.id,
        incident.help.round,
        Plan(incident.subject, incident.id, candidate.steps, candidate.signature, "trust me"),
        "memory",
        "",
        1.0,
        0,
        0,
    )
    s.say(sim, change(offer, candidate))


def refusals(s) -> list[str]:
    return s.told("refused")


def with_plan(offer: Offer, **changes) -> Offer:
    plan = offer.plan
    fields = {name: changes.get(name, getattr(plan, name)) for name in ("gate", "incident", "steps", "signature", "reasoning")}
    return Offer(offer.incident, offer.round, Plan(**fields), offer.planner, offer.model, offer.confidence, 0, 0)


def test_steps_that_nobody_measured(stage) -> None:
    """Every lie is refused, and the honest helper heals the host all the same."""

    def other_folder(offer: Offer, candidate) -> Offer:
        step = candidate.steps[0]
        bad = type(step)(step.action, step.definition, tuple((k, "/vol/data" if k == "path" else v) for k, v in step.values))
        return with_plan(offer, steps=(bad,))

    lies = {
        "the plan is not one of the candidates": other_folder,
        "the plan is not one of the candidates that": lambda offer, candidate: with_plan(offer, steps=candidate.steps * 2),
        "the plan is not one of the": lambda offer, candidate: with_plan(offer, signature="clean_cache role=cache"),
        "the plan is for something else": lambda offer, candidate: with_plan(offer, incident="0" * 12),
        "the plan is for something": lambda offer, candidate: with_plan(offer, gate=bytes(32)),
        "malformed offer": lambda offer, _: Offer(offer.incident, offer.round, offer.plan, "oracle", "", 1.0, 0, 0),
        "malformed": lambda offer, _: Offer(offer.incident, offer.round, offer.plan, "memory", "", 7.0, 0, 0),
    }
    for seed, (reason, change) in enumerate(lies.items()):
        s = stage(20 + seed)
        lie(s, s.helpers[1], change)
        assert s.until(s.over)
        assert reason in refusals(s)[0] and "n3" in refusals(s)[0], (reason, refusals(s))
        assert s.incident().state == "resolved"
        assert s.incident().planned_by == s.helpers[0].member.identity.id
        assert s.quiet() == []


def test_a_member_without_the_role_actor(stage) -> None:
    def demote(world) -> None:
        world.nodes[2].member = world.mesh.member("n3", ("member",))

    s = stage(30, before=demote)
    lie(s, s.helpers[1], lambda offer, _: offer)
    assert s.until(s.over)
    assert s.helpers[1].member.identity.id not in s.incident().offers, "what it may not say is not even folded in"
    assert s.incident().state == "resolved"
    assert s.incident().planned_by == s.helpers[0].member.identity.id
    assert s.quiet() == []


def test_a_member_that_offers_and_never_acts(stage) -> None:
    """Its capability lapses; the subject does the steps itself."""
    s = stage(31)
    lie(s, s.helpers[1], lambda offer, _: offer)
    assert s.until(s.over)
    assert s.incident().state == "resolved"
    assert "lapsed" in s.told("lapsed")[0]
    assert s.incident().planned_by == s.helpers[1].member.identity.id
    assert s.incident().capability.holder == s.subject.member.identity.id
    assert s.quiet() == []


def test_a_peer_that_cries_wolf_stops_nobody(stage) -> None:
    """An escalation is for people: whoever is at work goes on, and the last word is the subject's."""
    s = stage(32)
    s.fill()
    assert s.until(lambda: s.incident(s.helpers[1]) is not None and s.incident(s.helpers[1]).state == "seeking")
    word = s.incident(s.helpers[1]).last_word
    s.say(s.helpers[1], Escalation(s.incident().id, "wolf", word.generation, word.number))
    assert s.until(lambda: s.incident(s.helpers[0]).over)
    assert s.incident(s.helpers[0]).row("n1").row["verdict"] == "wolf"
    assert s.until(s.ended)
    assert {s.incident(sim).state for sim in s.world.nodes} == {"resolved"}
    assert s.quiet() == []


def test_a_subject_that_grants_nothing_is_escalated_by_a_peer(stage) -> None:
    """Its own policy refuses everything: people hear of it long before it gives up by itself."""

    def observe(world) -> None:
        world.nodes[0].settings.mode.update(reversible="observe")

    s = stage(33, before=observe)
    s.fill()
    assert s.until(lambda: s.incident(s.helpers[1]) is not None and s.incident(s.helpers[1]).over, 60)
    assert s.incident(s.helpers[1]).row("n1").row["verdict"] == "the subject has offers and grants nothing"
    assert s.until(s.ended, 120)
    assert s.incident().verdict == "no acceptable plan from anybody"
    assert refusals(s)[0].endswith("reversible actions are not allowed here")
    assert s.world.ran == []
    assert s.quiet() == []


def test_everyone_tells_the_same_story_on_a_bad_network(stage) -> None:
    """An offer may come in after the grant, or after the end: who planned and what healed is known everywhere all the same."""
    for seed in range(40, 46):
        s = stage(seed, nodes=4, weather=Weather(loss=0.3, duplicate=0.2, delay_max_ns=400_000_000))
        s.fill()
        assert s.until(s.over, 300)
        assert s.quiet() == []
        rows = [dict(s.incident(sim).row("n1").row) | {"known_to_all_ms": 0} for sim in s.world.nodes]
        assert all(row == rows[0] for row in rows), (seed, rows)
        if rows[0]["state"] == "resolved":
            assert {len(sim.disk.rows("history")) for sim in s.world.nodes} == {1}
