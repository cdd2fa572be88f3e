"""docs/wire.md says what the code does: names, tags, order of fields, vectors."""

import hashlib
import re
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from cloudisense import joining, renewal, rotation
from cloudisense.agent import entries, plan
from cloudisense.keys import capability, certificate, handover, invite, roster
from cloudisense.keys.encoding import pack
from cloudisense.keys.envelope import seal
from cloudisense.keys.identity import Identity
from cloudisense.keys.session import SessionKey, Sessions
from cloudisense.mesh import checkpoint, core, feed, hello, limits, member, outbound, revocation, silence, wire
from cloudisense.mesh.instant import Instant

PAGE = (Path(__file__).resolve().parents[2] / "docs/wire.md").read_text(encoding="utf-8")
ROWS = dict(re.findall(r"^\| (\w+) \| (`\w+`.*) \|$", PAGE, re.MULTILINE))
"""Structure -> its fields, of the tables with two columns."""
TAGGED = [*get_args(wire.Message), entries.StepRequest, entries.StepReply]
PLAIN: list[type[msgspec.Struct]] = [
    hello.Hello, member.Alive, member.Suspect, member.Left, member.Restarting, feed._Body, checkpoint.Checkpoint, checkpoint.Bundle,
    plan.Plan, plan.Step, plan.Candidate, plan.Measured,
    roster.SignedRoster, roster.Roster, roster.Issuer, certificate.Certificate, joining.JoinRequest, joining.JoinReply, invite.Token,
    revocation.Revocation, handover.Handover, handover.Succession, renewal.RenewReply, rotation.RotateRequest, rotation.RotateReply,
]  # fmt: skip
NODE, OTHER, MESH = b"\x11" * 32, b"\x22" * 32, b"\x33" * 32


@pytest.mark.parametrize("kind", TAGGED, ids=lambda kind: kind.__name__)
def test_tagged_structures_are_as_on_the_page(kind: type[msgspec.Struct]) -> None:
    rows = re.findall(rf"^\| {kind.__name__} \| (\d+) \| (.*) \|$", PAGE, re.MULTILINE)
    assert [(int(tag), tuple(re.findall(r"`(\w+)`", fields))) for tag, fields in rows] == [
        (kind.__struct_config__.tag, kind.__struct_fields__)
    ]


@pytest.mark.parametrize("kind", PLAIN, ids=lambda kind: kind.__name__)
def test_structures_are_as_on_the_page(kind: type[msgspec.Struct]) -> None:
    name = "Entry" if kind is feed._Body else kind.__name__
    assert tuple(re.findall(r"`(\w+)`", ROWS[name])) == kind.__struct_fields__
    assert kind.__struct_config__.array_like
    assert kind.__struct_config__.tag is None


def test_the_page_has_every_kind_of_entry_and_no_other() -> None:
    bodies = {**entries.KINDS, "capability": capability.Capability}
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (`\w+`.*) \|$", PAGE, re.MULTILINE)
    assert {kind: (name, tuple(re.findall(r"`(\w+)`", fields))) for kind, name, fields in rows} == {
        kind: (body.__name__, body.__struct_fields__) for kind, body in bodies.items()
    }


def test_the_numbers_on_the_page_are_those_of_the_code() -> None:
    bounds = limits.Limits()
    for words in (
        f"at most {bounds.datagram_bytes} bytes",
        f"at most {bounds.bulk_bytes})",
        f"| `entry` | its node | Entry | {bounds.entry_bytes} |",
        f"| `alive` | its node | Alive | {bounds.claim_bytes} |",
        f"| `restarting` | its node | Restarting | {bounds.claim_bytes} |",
        f"{bounds.hellos_per_source_s} hellos a second per source and {bounds.hellos_s} in all",
        f"where more than {bounds.small} others are present",
        f"after {bounds.suspicion_ms / 1000} to {bounds.suspicion_max_mult * bounds.suspicion_ms / 1000} s in a mesh of up\n  to ten",
        f"`stalled` is dead after {bounds.stalled_ms // 1000} s more",
        f"within {bounds.flap_window_ms // 60_000} minutes is given {bounds.flap_hold_ms // 1000} s more",
    ):
        assert words in PAGE


def test_the_vectors_on_the_page_are_what_comes_out() -> None:
    here, there = SessionKey(b"\x44" * 32), SessionKey(b"\x55" * 32)
    sessions = Sessions(NODE, MESH, here)
    sessions.learn(OTHER, there.public, Instant(0, 0))
    step = plan.Step("purge", OTHER, (("age", "1d"), ("path", "/tmp")))
    for vector in (
        sessions.seal(OTHER, wire.encode(wire.Nack(7))),
        seal(Identity(b"\x01" * 32), feed.ENTRY, MESH, pack([1, 0, bytes(32), 1000, "alert", b""])),
        plan.Plan(NODE, "i", (step,), "any", "words").hash,
    ):
        assert f"`{vector.hex()}`" in PAGE


def test_the_digest_on_the_page_is_what_comes_out(net: Any) -> None:
    world = net.formed("a", "b", "c")
    world.say("a")
    world.leave("c")
    world.run(2)
    a, known = world["a"], world["a"].mesh.members
    things = [pack([node, member.alive.incarnation, member.state == "left"]) for node, member in known.items()]
    things += [pack([a.id, a.mesh.incarnation, False]), pack(len(a.mesh.roster_chain)), *(entry.data for entry in a.mesh.feeds.all())]
    total = sum(int.from_bytes(hashlib.sha256(thing).digest()[:8], "big") for thing in things)
    assert len(things) == 5
    assert a.mesh._delivery.digest() == (total % 2**64).to_bytes(8, "big")


def test_the_page_has_all_that_goes_into_a_mesh_and_comes_out() -> None:
    for kind in (*get_args(core.Event), *get_args(outbound.Effect)):
        assert f"{kind.__name__}({', '.join(kind.__dataclass_fields__)})" in PAGE
    for kind in get_args(outbound.News):
        assert re.search(rf"poll_news.*\b{kind.__name__}\b", PAGE)
    for evidence in get_args(silence.Evidence):
        assert f"`{evidence}`" in PAGE


def test_the_page_stays_short() -> None:
    assert len(PAGE.splitlines()) <= 260
