"""Bodies of feed entries, direct messages, and a model worker's messages: a value, or one error."""

import contextlib
from collections.abc import Callable

from cloudisense.agent.entries import (
    KINDS,
    Alert,
    Closed,
    Escalation,
    Failed,
    Help,
    Intent,
    Offer,
    Outcome,
    StepReply,
    StepRequest,
    decode_direct,
)
from cloudisense.agent.ledger import parse_body
from cloudisense.agent.plan import Candidate, Measured, Plan, PlanRequest, Step
from cloudisense.keys.encoding import pack
from cloudisense.keys.envelope import seal
from cloudisense.keys.errors import RemoteProtocolError
from cloudisense.keys.testing import issue_for_tests
from cloudisense.llm.messages import read_reply, read_request
from cloudisense.mesh.feed import Entry, Reference, load_entry, parse_entry

KEYS = issue_for_tests(1)
NODE = KEYS.valid.identity.id
NAMES = (*sorted(KINDS), "capability", "of a later version")


def seeds() -> list[bytes]:
    """One of each."""
    step = Step("clean_cache", bytes(32), (("path", "/x"),))
    candidate = Candidate("s", "t", (step,), Measured(1, 0, 1, "x"), "reversible")
    plan = Plan(NODE, "i", (step,), "s", "r")
    bodies: dict[str, object] = {
        "alert": Alert("i", "k", "disk_full", "/x", "f", "s", 1, 1, 1, 1),
        "help": Help("i", 1, 1, 0, (candidate,)),
        "offer": Offer("i", 1, plan, "rules", "", 0.5, 0, 0),
        "intent": Intent("i", bytes(16), 0, step),
        "outcome": Outcome("i", bytes(16), 0, "done", "", 1),
        "failed": Failed("i", "s", "rules", "r"),
        "closed": Closed("i", "resolved", "v", "f", "s", "rules", NODE, NODE, 1, 1, 1),
    }
    if len(Escalation.__struct_fields__) == 2:
        bodies["escalation"] = ["i", "r"]
    found = [bytes([NAMES.index(kind)]) + pack(body) for kind, body in bodies.items()]
    base = len(NAMES)
    found.append(bytes([base]) + pack(StepRequest("i", bytes(16), 0, pack(plan))))
    found.append(bytes([base]) + pack(StepReply(bytes(16), 0, "done", "")))
    found.append(bytes([base + 1]) + pack([1, 0, bytes(32), 1, "alert", b"x"]))
    found.append(bytes([base + 2]) + pack(PlanRequest("i", "disk_full", "s", 1, 0, (candidate,))))
    return found


def make() -> Callable[[bytes], None]:
    """The thing to feed."""

    def entry(data: bytes) -> None:
        signed = seal(KEYS.valid.identity, "entry", KEYS.mesh_id, data)
        parsed, _ = parse_entry(signed, KEYS.mesh_id, 8192)
        assert 0 <= parsed.reference.number < 2**53 and 0 <= parsed.wall_ms < 2**53
        load_entry(signed, 8192)

    def one(data: bytes) -> None:
        if not data:
            return
        way, rest = data[0] % (len(NAMES) + 4), data[1:]
        with contextlib.suppress(RemoteProtocolError):
            if way < len(NAMES):
                body = parse_body(Entry(Reference(NODE, 1, 0), 1, NAMES[way], rest, b"", bytes(32)))
                assert body is None or len(pack(body)) <= 2 * len(rest) + 16
            else:
                (decode_direct, entry, read_request, lambda raw: read_reply(raw, 3))[way - len(NAMES)](rest)

    return one
