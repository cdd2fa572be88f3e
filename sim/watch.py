"""Checkers that look all the time: what only the moment shows is noted when it happens, in true time, outside the nodes."""

from cloudisense.agent.entries import Intent
from cloudisense.agent.ledger import parse_body
from cloudisense.agent.plan import Plan
from cloudisense.keys.capability import check_capability
from cloudisense.keys.encoding import unpack
from cloudisense.keys.errors import RemoteProtocolError
from cloudisense.mesh.events import EntryArrived, EntryDelivered, MemberChanged
from cloudisense.mesh.feed import Entry, Reference, load_entry, parse_entry
from cloudisense.mesh.instant import NS_PER_MS
from cloudisense.mesh.outbound import News
from cloudisense.sim.world import Run, SimNode, World

LIMIT = 8192


class Watch:
    """Overhears what every mesh tells its agent, and looks at the disks then. ``problems`` is what was wrong."""

    def __init__(self, world: World) -> None:
        self.problems: list[str] = []
        self._world = world
        self._by_id = {sim.member.identity.id: sim for sim in world.nodes}
        self._before: dict[tuple[str, bytes], str] = {}
        self._waiting: dict[Reference, set[bytes]] = {}
        self._runs = 0
        self.entries: dict[Reference, int] = {}
        """Every entry of an honest node -> when it was durable at its author."""
        world.news = self._news

    def _news(self, sim: SimNode, news: News, starting: bool) -> None:
        if sim.byzantine:
            return
        match news:
            case MemberChanged(node, state):
                self._changed(sim, node, state, starting)
            case EntryArrived(entry):
                self._arrived(sim, entry)
            case EntryDelivered(reference):
                self._delivered(sim, reference)
            case _:
                pass

    # -- M1: who is called dead ----------------------------------------------------------------------------------------

    def _changed(self, sim: SimNode, node: bytes, state: str, starting: bool) -> None:
        """Two must have seen the silence, unless there are no two (DESIGN section 3.2)."""
        before = self._before.get((sim.name, node), "alive")
        self._before[sim.name, node] = state
        for waiting in self._waiting.values():
            waiting.discard(node)
        if starting or state != "dead" or before not in ("alive", "suspect") or sim.node is None:
            return
        mesh = sim.node.mesh
        unsuspected = 1 + sum(m.state == "alive" for m in mesh.members.values())
        accusers = len(mesh.members[node].evidence)
        if accusers < min(2, unsuspected) and mesh.members[node].state == "dead":
            self.problems.append(f"M1: {sim.name} holds {self._name(node)} dead on the word of {accusers}")

    # -- M2: durable before it is told ---------------------------------------------------------------------------------

    def _arrived(self, sim: SimNode, entry: Entry) -> None:
        author = self._by_id[entry.node]
        if author.byzantine:
            return
        if entry.node == sim.member.identity.id:
            self.entries[entry.reference] = self._world.clock.now_ns
            if sim.node is not None:
                self._waiting[entry.reference] = {n for n in sim.node.mesh.present() if not self._by_id[n].byzantine}
        elif entry.reference not in self.entries and not self._on_disk(author, entry.reference):
            self.problems.append(f"M2: {sim.name} has an entry of {author.name} that is not on its author's disk")
        if author is sim and not self._on_disk(sim, entry.reference):
            self.problems.append(f"M2: {sim.name} acts on words of its own that are not on its disk")

    def _delivered(self, sim: SimNode, reference: Reference) -> None:
        for node in sorted(self._waiting.pop(reference, set())):
            if not self._on_disk(self._by_id[node], reference):
                self.problems.append(f"M2: {sim.name} takes an entry as delivered that is not on the disk of {self._name(node)}")

    def _on_disk(self, sim: SimNode, reference: Reference) -> bool:
        return sim.disk.row("entries", reference.node, reference.generation, reference.number) is not None

    def _name(self, node: bytes) -> str:
        return self._by_id[node].name

    # -- H1 and H4: at the moment of the run ---------------------------------------------------------------------------

    def runs(self) -> None:
        """Look at the steps that have begun since the last time."""
        for run in self._world.runs[self._runs :]:
            sim = next(sim for sim in self._world.nodes if sim.name == run.host)
            problem = self._wrong(sim, run)
            if problem:
                self.problems.append(f"H1: {run.host} ran step {run.index} of {run.nonce.hex()[:8]}: {problem}")
            if not self._intended(sim, run):
                self.problems.append(f"H4: {run.host} ran step {run.index} of {run.nonce.hex()[:8]} before its intent was durable")
        self._runs = len(self._world.runs)

    def _wrong(self, sim: SimNode, run: Run) -> str:
        """Everything that the gate should have looked at, looked at by somebody else."""
        try:
            entry, _ = parse_entry(run.request.capability, self._world.mesh.mesh_id, LIMIT)
            capability, plan = check_capability(entry.body), unpack(run.request.plan, Plan, LIMIT)
        except RemoteProtocolError as error:
            return error.reason
        late_ns = run.boot_ns - capability.granted_ms * NS_PER_MS
        checks = (
            (entry.kind == "capability" and entry.node == sim.member.identity.id, "not granted by its host"),
            (capability.nonce == run.nonce and capability.gate == sim.member.identity.id, "of another capability"),
            (capability.plan_hash == plan.hash and plan.incident == capability.incident, "not the plan that was granted"),
            (
                run.index < len(plan.steps) == capability.steps and plan.steps[run.index : run.index + 1] == (run.step,),
                "not a step of its plan",
            ),
            (capability.holder == run.request.requester, "not by its holder"),
            (capability.boot == run.boot_id, "of an earlier boot"),
            # Admitted in time, then made durable: a sync lies between.
            (0 <= late_ns <= (capability.lapse_ms + 10_000) * NS_PER_MS, "lapsed"),
        )
        return next((words for holds, words in checks if not holds), "")

    def _intended(self, sim: SimNode, run: Run) -> bool:
        for row in reversed(sim.disk.rows("entries")):
            if row["node"] == sim.member.identity.id:
                try:
                    body = parse_body(load_entry(bytes(row["data"]), LIMIT)[0])  # pyright: ignore[reportArgumentType]
                except RemoteProtocolError:
                    continue
                if isinstance(body, Intent) and (body.nonce, body.index) == (run.nonce, run.index):
                    return True
        return False

    # -- after the healing ---------------------------------------------------------------------------------------------

    def lost(self) -> list[str]:
        """M1: whom does somebody still hold dead or unreachable, though all is well?"""
        return [
            f"M1: {sim.name} still holds {self._name(m.node)} {m.state}"
            for sim in self._honest()
            if sim.node is not None
            for m in sim.node.mesh.members.values()
            if m.state in ("dead", "unreachable") and not self._by_id[m.node].byzantine
        ]

    def undelivered(self, since_ns: int) -> list[str]:
        """M2: entries since then that are not on every disk."""
        return [
            f"M2: an entry of {self._name(reference.node)} is not at {sim.name}"
            for reference, at_ns in self.entries.items()
            if at_ns >= since_ns
            for sim in self._honest()
            if not self._on_disk(sim, reference)
        ]

    def _honest(self) -> list[SimNode]:
        return [sim for sim in self._world.nodes if not sim.byzantine]
