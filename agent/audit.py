"""The audit: does what lies on this disk prove itself? Every feed is walked from where it begins, every signature checked anew."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from cloudisense.agent.entries import Intent, Outcome
from cloudisense.agent.ledger import parse_body
from cloudisense.keys.encoding import unpack
from cloudisense.keys.errors import RemoteProtocolError
from cloudisense.mesh.checkpoint import BUNDLE_BYTES, Bundle, Checkpoint, check_bundle
from cloudisense.mesh.feed import GENESIS, Entry, parse_entry
from cloudisense.mesh.fork import check_fork
from cloudisense.mesh.wire import ForkProof

ENTRY_BYTES = 8192


@dataclass(slots=True)
class FeedReport:
    """One feed: ``first`` is the number that it begins with here, behind a checkpoint when it is not 0."""

    node: bytes
    generation: int
    first: int
    entries: int = 0
    head: bytes = GENESIS
    cosigners: int = 0


@dataclass(frozen=True, slots=True)
class Problem:
    """``what`` is wrong at one place; ``number`` is -1 where it is about the whole feed."""

    node: bytes
    generation: int
    number: int
    what: str


@dataclass(slots=True)
class Audit:
    """What was found."""

    feeds: list[FeedReport] = field(default_factory=list[FeedReport])
    problems: list[Problem] = field(default_factory=list[Problem])


def audit(mesh_id: bytes, entries: Iterable[tuple[bytes, int, int, bytes]], bundles: Iterable[bytes], forks: Iterable[ForkProof]) -> Audit:
    """Walk ``entries`` (node, generation, number, data), sorted, behind the checkpoints of ``bundles``."""
    found = Audit()
    bases = _bases(mesh_id, bundles, found)
    for proof in forks:
        _fork(mesh_id, proof, found)
    report: FeedReport | None = None
    broken = False
    steps: dict[tuple[bytes, bytes, int], Entry] = {}
    for node, generation, number, data in entries:
        if report is None or (report.node, report.generation) != (node, generation):
            report, broken = _begin(node, generation, bases), False
            found.feeds.append(report)
        if broken:
            continue  # only the first broken link of a feed says something
        try:
            entry = _link(mesh_id, report, number, data)
        except RemoteProtocolError as error:
            found.problems.append(Problem(node, generation, number, error.reason))
            broken = True
            continue
        _step(entry, steps)
    found.problems += [Problem(e.node, e.reference.generation, e.reference.number, "missing outcome") for e in steps.values()]
    return found


def _bases(mesh_id: bytes, bundles: Iterable[bytes], found: Audit) -> dict[bytes, tuple[Checkpoint, int]]:
    bases: dict[bytes, tuple[Checkpoint, int]] = {}
    for data in bundles:
        try:
            checkpoint, signers = check_bundle(unpack(data, Bundle, BUNDLE_BYTES), mesh_id)
        except RemoteProtocolError as error:
            found.problems.append(Problem(error.peer or b"", 0, -1, f"checkpoint: {error.reason}"))
        else:
            bases[checkpoint.node] = (checkpoint, len(signers))
    return bases


def _fork(mesh_id: bytes, proof: ForkProof, found: Audit) -> None:
    try:
        _, second = check_fork(proof, mesh_id, ENTRY_BYTES)
    except RemoteProtocolError as error:
        found.problems.append(Problem(b"", 0, -1, f"fork proof: {error.reason}"))
    else:
        found.problems.append(Problem(second.node, second.reference.generation, second.reference.number, "forked"))


def _begin(node: bytes, generation: int, bases: dict[bytes, tuple[Checkpoint, int]]) -> FeedReport:
    base = bases.get(node)
    if base is None or base[0].generation != generation:
        return FeedReport(node, generation, 0)
    checkpoint, signers = base
    return FeedReport(node, generation, checkpoint.number, head=checkpoint.head, cosigners=signers)


def _link(mesh_id: bytes, report: FeedReport, number: int, data: bytes) -> Entry:
    expected = report.first + report.entries
    if number != expected:
        raise RemoteProtocolError(f"entry {expected} is missing")
    entry, previous = parse_entry(data, mesh_id, ENTRY_BYTES)
    if (entry.node, entry.reference.generation, entry.reference.number) != (report.node, report.generation, number):
        raise RemoteProtocolError("entry of another place")
    if previous != report.head:
        raise RemoteProtocolError("broken link")
    report.head, report.entries = entry.hash, report.entries + 1
    return entry


def _step(entry: Entry, steps: dict[tuple[bytes, bytes, int], Entry]) -> None:
    """Keep the intents that still wait for their outcome."""
    try:
        body = parse_body(entry)
    except RemoteProtocolError:
        return
    if isinstance(body, Intent):
        steps[(entry.node, body.nonce, body.index)] = entry
    elif isinstance(body, Outcome):
        steps.pop((entry.node, body.nonce, body.index), None)
