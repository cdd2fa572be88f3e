"""What the agent asks of its host, collected until the shell polls; each question remembers who wants the answer."""

from collections.abc import Callable
from typing import Any

from cloudisense.agent.effects import Estimate, Notify, RequestPlan, RunStep, Sample
from cloudisense.agent.events import Estimated, PlanFailed, PlanReady, Sampled, StepDone
from cloudisense.agent.plan import PlanRequest, Step
from cloudisense.mesh.effects import Persist, Put
from cloudisense.mesh.instant import NS_PER_MS, Instant
from cloudisense.mesh.timers import Timers

Effect = Sample | Estimate | RequestPlan | RunStep | Notify | Persist
Answer = Sampled | Estimated | PlanReady | PlanFailed | StepDone


class Requests:
    """The agent's one way to its host."""

    def __init__(self) -> None:
        self.timers = Timers()
        self._effects: list[Effect] = []
        self._waiting: dict[int, Callable[[Any, Instant], None]] = {}
        self._token = 0

    def sample(self, path: str, then: Callable[[Sampled, Instant], None]) -> None:
        """Read the file system at ``path``."""
        self._effects.append(Sample(self._ask(then), path))

    def estimate(self, steps: tuple[Step, ...], then: Callable[[Estimated, Instant], None]) -> None:
        """Measure what each step would free."""
        self._effects.append(Estimate(self._ask(then), steps))

    def plan(self, request: PlanRequest, then: Callable[[PlanReady | PlanFailed, Instant], None]) -> None:
        """Ask the model."""
        self._effects.append(RequestPlan(self._ask(then), request))

    def run_step(self, requester: bytes, capability: bytes, plan: bytes, index: int, then: Callable[[StepDone, Instant], None]) -> None:
        """Ask the guard."""
        self._effects.append(RunStep(self._ask(then), requester, capability, plan, index))

    def notify(self, topic: str, incident: str, text: str, **facts: str | int) -> None:
        """Tell the operator."""
        self._effects.append(Notify(topic, incident, text, tuple(sorted(facts.items()))))

    def persist(self, *rows: Put) -> None:
        """Write rows that nothing waits for: they can be folded again from the feeds."""
        self._effects.append(Persist(0, rows))

    def after(self, name: object, now: Instant, wait_ms: int) -> None:
        """Wake ``name`` in ``wait_ms``."""
        self.timers.set(name, now.boot_ns + wait_ms * NS_PER_MS)

    def answered(self, answer: Answer, now: Instant) -> None:
        """The host answers; an answer that nobody waits for is dropped."""
        if (then := self._waiting.pop(answer.token, None)) is not None:
            then(answer, now)

    def poll_effects(self) -> list[Effect]:
        """What the host has to do now, in order."""
        effects, self._effects = self._effects, []
        return effects

    def _ask(self, then: Callable[[Any, Instant], None]) -> int:
        self._token += 1
        self._waiting[self._token] = then
        return self._token
