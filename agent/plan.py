"""Plans: what a planner may propose, what a capability names by hash, what a gate will run.

A step names a catalogue action and typed values, never a command. A plan's hash covers, for each step,
the digest of the action's definition *at the gate's host*, so that a plan authorised there
cannot run under a definition that changed since (DESIGN section 3.3).
"""

import hashlib
from typing import Annotated

import msgspec

from cloudisense.keys.encoding import pack


class Step(msgspec.Struct, frozen=True, array_like=True):
    """One action of the gate host's catalogue with its values.

    ``definition`` is the SHA-256 of the action's definition at the gate's host.
    ``values`` are (parameter, value) pairs sorted by parameter.
    """

    action: str
    definition: bytes
    values: tuple[tuple[str, str], ...]

    def value(self, parameter: str) -> str:
        """The value of ``parameter``, or the empty string."""
        return dict(self.values).get(parameter, "")


Steps = Annotated[tuple[Step, ...], msgspec.Meta(min_length=1, max_length=32)]


class Measured(msgspec.Struct, frozen=True, array_like=True):
    """What one step would do, measured on the subject without changing anything."""

    frees_bytes: int
    frees_inodes: int
    files: int
    detail: str
    """One short clause for people, e.g. ``"212 files older than 1 day"``; empty when it would do nothing."""


class Candidate(msgspec.Struct, frozen=True, array_like=True):
    """Steps that together reach the goal by measurement; the things that planners rank.

    ``signature`` names it without the host's paths (``purge_old_files role=temp age=1d``): the fix history's key.
    ``title`` is one plain sentence for people and for the model.
    """

    signature: str
    title: str
    steps: Steps
    measured: Measured
    risk: str


class Plan(msgspec.Struct, frozen=True, array_like=True):
    """Ordered steps at one gate, with the words that justify them. The words are not hashed."""

    gate: bytes
    incident: str
    steps: Steps
    signature: str
    reasoning: str

    @property
    def hash(self) -> bytes:
        """SHA-256 over gate, incident and steps: what a capability authorises, byte for byte."""
        return hashlib.sha256(pack(["plan/1", self.gate, self.incident, [[s.action, s.definition, s.values] for s in self.steps]])).digest()


class PlanRequest(msgspec.Struct, frozen=True, array_like=True):
    """All that a model is told of an incident. Every text in it is untrusted data."""

    incident: str
    kind: str
    symptom: str
    """One sentence with the measured facts."""
    goal_bytes: int
    goal_inodes: int
    candidates: tuple[Candidate, ...]


class Ranking(msgspec.Struct, frozen=True, array_like=True):
    """A planner's answer: indices into the request's candidates, best first, and why the first."""

    order: tuple[int, ...]
    reasoning: str
    planner: str
    """``"memory"``, ``"rules"`` or ``"llm"``."""
    model: str = ""
    load_ms: int = 0
    think_ms: int = 0
