"""Questions to the host, each answered to whoever asked."""

from cloudisense.agent.effects import Estimate, Notify, RequestPlan, RunStep, Sample
from cloudisense.agent.events import Estimated, PlanFailed, Sampled, StepDone
from cloudisense.agent.plan import PlanRequest
from cloudisense.agent.requests import Requests
from cloudisense.mesh.effects import Persist, Put
from cloudisense.mesh.instant import Instant

NOW = Instant(5, 7)


def test_every_answer_finds_its_question_once() -> None:
    requests, heard = Requests(), []
    requests.sample("/a", lambda answer, now: heard.append(("a", answer.token, now)))
    requests.estimate((), lambda answer, now: heard.append(("b", answer.token, now)))
    requests.plan(PlanRequest("i", "k", "s", 1, 1, ()), lambda answer, now: heard.append(("c", answer.token, now)))
    requests.run_step(b"r", b"c", b"p", 3, lambda answer, now: heard.append(("d", answer.token, now)))
    requests.notify("topic", "i", "text", b=1, a="x")
    requests.persist(Put("t", {}))
    sample, estimate, plan, run, notify, persist = requests.poll_effects()
    assert isinstance(sample, Sample) and isinstance(estimate, Estimate) and isinstance(plan, RequestPlan) and isinstance(run, RunStep)
    assert (run.requester, run.capability, run.plan, run.index) == (b"r", b"c", b"p", 3)
    assert notify == Notify("topic", "i", "text", (("a", "x"), ("b", 1)))
    assert persist == Persist(0, (Put("t", {}),))
    assert requests.poll_effects() == []
    answers = [StepDone(run.token, "done", ""), PlanFailed(plan.token, ""), Estimated(estimate.token, ()), Sampled(sample.token, None)]
    for answer in [*answers, *answers, Sampled(99, None)]:
        requests.answered(answer, NOW)
    assert heard == [("d", run.token, NOW), ("c", plan.token, NOW), ("b", estimate.token, NOW), ("a", sample.token, NOW)]
